"""The command `d3gzsl`."""

from __future__ import annotations

import sys

import typer

from model import __version__
from model.errors import D3GZSLError
from model.outside.extras import what_is_missing
from service.commands import bundle, classes, classify, keys, registry, serve

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Serve a D3GZSL classifier, ask it, and teach it new classes.",
)
app.command()(serve.serve)
app.command()(classify.classify)
app.add_typer(classes.app, name="classes")
app.add_typer(bundle.app, name="bundle")
app.add_typer(registry.app, name="registry")
app.add_typer(keys.app, name="keys")


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(False, "--version", callback=_print_version, is_eager=True, help="Print the version."),
) -> None: ...


def main() -> None:
    """Run the command; what a user can mend ends with one clear line and exit status 2."""
    try:
        app()
    except D3GZSLError as error:
        sys.stderr.write(f"d3gzsl: {error}\n")
        raise SystemExit(2) from None
    except ModuleNotFoundError as error:
        if (missing := what_is_missing(error)) is None:
            raise
        sys.stderr.write(f"d3gzsl: {missing}\n")
        raise SystemExit(2) from None


if __name__ == "__main__":
    main()
