"""`d3gzsl serve`: every setting is a flag."""

from __future__ import annotations

import inspect
import logging
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from service.settings import PREFIX, CommaSeparated, Settings, ignored_variables, load_settings
from service.telemetry import logs

log = logging.getLogger(__name__)


def serve(**flags: Any) -> None:
    """Serve a bundle over HTTP; every flag is also an environment variable."""
    settings = load_settings(**flags)
    logs.configure(form=settings.log_format, level=settings.log_level)
    for sentence in ignored_variables():
        log.warning(sentence)

    from service.server import supervisor
    from service.server.supervisor import bind

    with bind(settings.host, settings.port) as listener:
        supervisor.run_workers(settings, listener)


def _flags() -> list[inspect.Parameter]:
    """One optional keyword per setting, from the settings themselves, so that none can be forgotten."""
    return [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[
                _flag_type(field.annotation) | None,
                typer.Option(help=f"{field.description}{_default(field.default)} [{PREFIX}{name.upper()}]"),
            ],
        )
        for name, field in Settings.model_fields.items()
    ]


def _flag_type(annotation: Any) -> Any:
    parts = (annotation, *get_args(annotation))
    if annotation == get_args(CommaSeparated)[0] or any(get_origin(part) is Literal for part in parts):
        return str
    plain = [part for part in get_args(annotation) if part is not NoneType]
    return plain[0] if plain else annotation


def _default(value: Any) -> str:
    """The default in words, where it says more than "none given"."""
    return f" Default: {value}." if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


serve.__signature__ = inspect.Signature(_flags())  # type: ignore[attr-defined]  # read by typer
serve.__annotations__ = {flag.name: flag.annotation for flag in _flags()}
