"""Which proxy the environment names for an address, and which addresses it leaves out."""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit
from urllib.request import getproxies

import httpx

from model.errors import D3GZSLError

_KNOWN_SCHEMES = ("http", "https", "socks5", "socks5h")
_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProxyError(D3GZSLError):
    """The environment names a proxy that cannot be used; names the variable."""


class Proxy:
    """A proxy that the environment names.

    Attributes:
        url: its address.
        variable: the environment variable that names it; "the system's settings" where none does.
    """

    def __init__(self, url: str, variable: str) -> None:
        self.url, self.variable = url, variable

    def __str__(self) -> str:
        parts = urlsplit(self.url)
        return f"{self.variable} ({parts.scheme}://{parts.netloc.rpartition('@')[2]})"  # without a password


def proxy_for(url: str) -> Proxy | None:
    """The proxy for an address, or None where it is asked directly: on loopback, or covered by `NO_PROXY`.

    `NO_PROXY` holds hosts, domains, addresses and networks with commas between, IPv6 with or without brackets, each
    with a port if wanted; `*` stands for all.

    Args:
        url: http or https.

    Raises:
        ProxyError: the proxy's address cannot be read.
    """
    parts = urlsplit(url)
    host = (parts.hostname or "").rstrip(".")
    port = parts.port or _DEFAULT_PORTS.get(parts.scheme)
    if _is_loopback(host) or any(_covers(entry, host, port) for entry in _left_out()):
        return None
    named = getproxies()
    for kind in (parts.scheme, "all"):
        if address := named.get(kind, "").strip():
            return _readable(Proxy(address if "://" in address else f"http://{address}", _variable(kind)), host)
    return None


class ProxiedTransport(httpx.BaseTransport):
    """Carries requests as the environment says: each directly, or through the proxy for its address.

    httpx reads the environment, too, but fails on entries that it does not know before anything is sent, and blames the
    address.
    """

    def __init__(self) -> None:
        self._transports: dict[str | None, httpx.HTTPTransport] = {}

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request.

        Raises:
            ProxyError: the environment names a proxy that cannot be used.
            httpx.TransportError: there is no answer; names the proxy, where one was asked.
        """
        proxy = proxy_for(str(request.url))
        with _named(proxy, request):
            return self._transport(None if proxy is None else proxy.url).handle_request(request)

    def close(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            transport.close()

    def _transport(self, proxy: str | None) -> httpx.HTTPTransport:
        if proxy not in self._transports:
            self._transports[proxy] = httpx.HTTPTransport(proxy=proxy)
        return self._transports[proxy]


class AsyncProxiedTransport(httpx.AsyncBaseTransport):
    """The same for asynchronous clients."""

    def __init__(self) -> None:
        self._transports: dict[str | None, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request; raises what :meth:`ProxiedTransport.handle_request` does."""
        proxy = proxy_for(str(request.url))
        with _named(proxy, request):
            return await self._transport(None if proxy is None else proxy.url).handle_async_request(request)

    async def aclose(self) -> None:
        """Close every connection."""
        for transport in self._transports.values():
            await transport.aclose()

    def _transport(self, proxy: str | None) -> httpx.AsyncHTTPTransport:
        if proxy not in self._transports:
            self._transports[proxy] = httpx.AsyncHTTPTransport(proxy=proxy)
        return self._transports[proxy]


@contextmanager
def _named(proxy: Proxy | None, request: httpx.Request) -> Iterator[None]:
    """Errors of a proxy name it, and how to do without."""
    try:
        yield
    except ImportError:
        if proxy is None:
            raise
        needs = "SOCKS proxies need the package socksio, which `pip install httpx[socks]` brings"
        raise ProxyError(f"{proxy}: {needs}; {_way_out(request.url.host)}") from None
    except httpx.TransportError as error:
        if proxy is None:
            raise
        reason = str(error) or type(error).__name__
        raise type(error)(f"{reason}, through the proxy of {proxy}; {_way_out(request.url.host)}") from error


def _way_out(host: str) -> str:
    return f"NO_PROXY={host} asks {host} without a proxy"


def _readable(proxy: Proxy, host: str) -> Proxy:
    parts = urlsplit(proxy.url)
    try:
        there = parts.hostname and (parts.port or True)
    except ValueError:
        there = False
    if not there or parts.scheme not in _KNOWN_SCHEMES:
        known = ", ".join(_KNOWN_SCHEMES)
        raise ProxyError(f"{proxy}: expected the address of a proxy that begins with one of {known}; {_way_out(host)}")
    return proxy


def _variable(kind: str) -> str:
    found = [name for name in (f"{kind}_proxy", f"{kind}_PROXY".upper()) if os.environ.get(name)]
    return found[0] if found else "the system's settings"


def _left_out() -> list[str]:
    text = os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or ""
    return text.replace(",", " ").split()


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def _covers(entry: str, host: str, port: int | None) -> bool:
    """Whether an entry of `NO_PROXY` covers a host."""
    if entry == "*":
        return True
    address, network = _address(host), _network(entry)
    if network is not None:
        return address is not None and address in network
    name, wanted = _without_port(entry)
    if wanted not in (None, port):
        return False
    if (network := _network(name)) is not None:
        return address is not None and address in network
    domain = name.lower().removeprefix("*").lstrip(".").rstrip(".")
    return bool(domain) and (host == domain or host.endswith(f".{domain}"))


def _without_port(entry: str) -> tuple[str, int | None]:
    name, colon, port = entry.rpartition(":")
    return (name, int(port)) if colon and port.isdecimal() else (entry, None)


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None


def _network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network | None:
    """The network of an entry, or of its single address."""
    host, slash, bits = text.partition("/")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        return ipaddress.ip_network(host + slash + bits, strict=False)
    except ValueError:
        return None
