"""`d3gzsl-train`: from photos or a benchmark to a bundle."""

from __future__ import annotations

import sys

import typer

from model.errors import D3GZSLError
from model.outside.extras import what_is_missing
from training import console
from training.commands.data import backbone, extract, fetch
from training.commands.fit import fit, recipes, tune
from training.commands.make import make, sample_photos
from training.commands.results import demo, evaluate, export, report
from training.commands.text import text_encoder

USER_ERROR = 2  # exit status, the same as for a wrong option

app = typer.Typer(
    name="d3gzsl-train",
    help="Train generalized zero-shot classifiers with D3GZSL.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(make)
app.command()(sample_photos)
app.command()(fetch)
app.command()(extract)
app.command()(backbone)
app.command()(text_encoder)
app.command()(recipes)
app.command()(fit)
app.command()(tune)
app.command()(evaluate)
app.command()(report)
app.command()(export)
app.command()(demo)


@app.callback()
def _group() -> None:
    """Train generalized zero-shot classifiers with D3GZSL."""


def main() -> None:
    """Run the command line; what a user can mend ends with its message and status 2, without a traceback."""
    try:
        app()
    except D3GZSLError as error:
        console.fail(str(error))
        sys.exit(USER_ERROR)
    except ModuleNotFoundError as error:
        if (missing := what_is_missing(error)) is None:
            raise
        console.fail(str(missing))
        sys.exit(USER_ERROR)
    except OSError as error:  # no permission, no space: the file and the reason say all
        if error.filename is None:
            raise
        console.fail(f"{error.filename}: {error.strerror}")
        sys.exit(USER_ERROR)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
