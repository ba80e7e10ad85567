"""`d3gzsl serve`: every setting is a flag."""

from __future__ import annotations

import inspect
import logging
import socket
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin

import typer

from service.errors import SettingsError
from service.settings import PREFIX, Settings, Words, load_settings

log = logging.getLogger(__name__)


def serve(**flags: Any) -> None:
    """Serve a bundle over HTTP; every flag is also an environment variable."""
    settings = load_settings(**flags)
    logging.basicConfig(level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    logging.getLogger("alembic").setLevel(logging.WARNING)

    import uvicorn

    from service.app import create_app
    from service.service import Service

    service = Service.open(settings)
    try:
        listener = _listen(settings.host, settings.port)
    except BaseException:
        service.close()
        raise
    with listener:
        config = uvicorn.Config(
            create_app(service),
            log_level=settings.log_level,
            lifespan="on",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=round(settings.deadline) + 1,
        )
        host, port = listener.getsockname()[:2]
        name = f"[{host}]" if ":" in host else host
        log.info("serving bundle %s on http://%s:%d", service.bundle.manifest.bundle_id, name, port)
        uvicorn.Server(config).run(sockets=[listener])


def _listen(host: str, port: int) -> socket.socket:
    """A listening socket; SettingsError where the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(2048)
        except BaseException:
            listener.close()
            raise
    except OSError as error:
        raise SettingsError(f"cannot listen on {host}, port {port}: {error.strerror or error}") from None
    return listener


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
    if annotation == get_args(Words)[0] or get_origin(annotation) is Literal:
        return str
    plain = [part for part in get_args(annotation) if part is not NoneType]
    return plain[0] if plain else annotation


def _default(value: Any) -> str:
    """The default in words, where it says more than "none given"."""
    return f" Default: {value}." if isinstance(value, str | int | float) and not isinstance(value, bool) else ""


serve.__signature__ = inspect.Signature(_flags())  # type: ignore[attr-defined]  # read by typer
serve.__annotations__ = {flag.name: flag.annotation for flag in _flags()}
