"""Who may do what: hosts for everything but health, keys and roles for every request, origins for changes."""

from __future__ import annotations

import ipaddress
import math
from collections.abc import Iterable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Depends, Request
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer

from service.errors import ForbiddenError, HostError, MediaTypeError, OriginError, RateError, UnauthorizedError
from service.inference.fairness import Rates
from service.keys import Action, Key, Keys
from service.registry.change import AUTHOR
from service.settings import Settings

_bearer = HTTPBearer(auto_error=False, description="A key made by `d3gzsl keys new`; needed where keys are set.")
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)]
HEALTH = frozenset({"/healthz", "/readyz", "/v2/health/live", "/v2/health/ready"})
"""What probes ask for, under whatever name or address they know."""
METRICS = "/metrics"
"""What Prometheus asks every process for, by the address that it has found."""
_DEFAULT_PORTS = {"http": 80, "https": 443}


async def may_classify(request: Request, _credentials: Credentials) -> None:
    """Dependency of what classifies images."""
    _require(request, "classify")


async def may_read(request: Request, _credentials: Credentials) -> None:
    """Dependency of everything that only reads."""
    _require(request, "read")


async def may_change(request: Request, _credentials: Credentials) -> None:
    """Dependency of every change of classes: what a preview needs, and JSON where there is a body."""
    await may_preview(request, _credentials)
    _require_json(request)


async def may_preview(request: Request, _credentials: Credentials) -> None:
    """Dependency of what only those may ask for who may change classes; no foreign page."""
    _require(request, "classes")
    _require_own_page(request)


async def may_roll_back(request: Request, _credentials: Credentials) -> None:
    """Dependency of a rollback, which is a change of everything."""
    _require(request, "rollback")
    _require_own_page(request)
    _require_json(request)


def under_own_name(request: Request) -> None:
    """Refuse a host that is not allowed, but for those who ask after the health.

    A page of another site can have its own name point here (DNS rebinding). Its requests then carry that name. So the
    metrics are given under any address, which is no name.
    """
    path = _path(request)
    host = request.headers.get("host", "")
    if path in HEALTH or (path == METRICS and is_address(host)):
        return
    settings: Settings = request.app.state.service.settings
    if not host_allowed(host, (settings.host, *settings.allowed_hosts)):
        raise HostError(f"the host name {host[:300]!r} is not allowed; add it to D3GZSL_ALLOWED_HOSTS")


def within_rate(request: Request) -> None:
    """Refuse more requests than a client may send, but for those who ask after the health."""
    rates: Rates | None = request.app.state.rates
    if rates is None or _path(request) in HEALTH:
        return
    if seconds := rates.wait(client_of(request)):
        settings: Settings = request.app.state.service.settings
        raise RateError(
            f"at most {settings.rate_limit:g} requests a second on average, and {settings.rate_burst} at once",
            retry_after=math.ceil(seconds),
        )


def client_of(request: Request) -> str:
    """Who sent a request: its key, or without a known one its address, of IPv6 the network of 64 bits."""
    return _name_of(request, _key_of(request))


def media_type(request: Request) -> str:
    """The body's type without its parameters, in small letters."""
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def host_allowed(host: str, allowed: Iterable[str]) -> bool:
    """Whether a Host header names this machine's loopback or one of the allowed names; ``*`` allows any."""
    return _host_allowed(host, tuple(allowed))


@lru_cache(maxsize=256)  # clients say the same name in every request
def _host_allowed(host: str, allowed: tuple[str, ...]) -> bool:
    name, _ = _name_and_port(f"//{host}")
    names = {a.lower() for a in allowed}
    if "*" in names:
        return True
    if name is None:
        return False
    try:
        if ipaddress.ip_address(name).is_loopback:
            return True
    except ValueError:
        pass
    return name == "localhost" or name in names


def is_address(host: str) -> bool:
    """Whether a Host header has an IP address in place of a name."""
    name, _ = _name_and_port(f"//{host}")
    try:
        ipaddress.ip_address(name or "")
    except ValueError:
        return False
    return True


def same_origin(origin: str, host: str) -> bool:
    """Whether an Origin header is the page's own; the scheme may differ, since a proxy may have ended TLS."""
    default = _DEFAULT_PORTS.get(origin.partition(":")[0].lower())
    if default is None:
        return False
    (name, port), (own_name, own_port) = _name_and_port(origin), _name_and_port(f"//{host}")
    return name is not None and (name, port or default) == (own_name, own_port or default)


def _name_and_port(url: str) -> tuple[str | None, int | None]:
    try:
        parts = urlsplit(url)
        return parts.hostname, parts.port
    except ValueError:
        return None, None


def _path(request: Request) -> str:
    return str(request.scope["path"]).removeprefix(request.scope.get("root_path", ""))


def _key_of(request: Request) -> Key | None:
    """What is known of the key that a request came with."""
    keys: Keys = request.app.state.service.keys
    scheme, _, sent = request.headers.get("authorization", "").partition(" ")
    return keys.find(sent.strip()) if keys and scheme.lower() == "bearer" else None


def _name_of(request: Request, key: Key | None) -> str:
    if key is not None:
        return f"key {key.id}"
    return _named_after(request.client.host if request.client else "")


@lru_cache(maxsize=1024)
def _named_after(address: str) -> str:
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address
    return str(ipaddress.ip_network(f"{address}/64", strict=False)) if known.version == 6 else address


def _require(request: Request, needed: Action) -> None:
    key = _key_of(request)
    AUTHOR.set(_name_of(request, key))
    if not request.app.state.service.keys:
        return
    if key is None:
        raise UnauthorizedError("send a key as `Authorization: Bearer ...`")
    if key.expired(datetime.now(UTC)):
        raise UnauthorizedError(f"the key {key.id} has expired; ask for a new one")
    if needed not in key.actions:
        raise ForbiddenError(
            f"this needs a key with the action {needed}, got one of the role {key.role} with "
            + ", ".join(sorted(key.actions))
        )


def _require_own_page(request: Request) -> None:
    origin, host = request.headers.get("origin"), request.headers.get("host", "")
    settings: Settings = request.app.state.service.settings
    if origin is not None and origin not in settings.cors_origins and not same_origin(origin, host):
        raise OriginError(f"the origin {origin!r} is not that of {host!r}")


def _require_json(request: Request) -> None:
    if request.method != "DELETE" and media_type(request) != "application/json":
        raise MediaTypeError(f"expected a body of type application/json, got {media_type(request) or 'none'}")
