"""Proxies as shells name them."""

from __future__ import annotations

import asyncio

import httpx
import pytest

from model.outside.proxies import AsyncProxiedTransport, ProxiedTransport, ProxyError, proxy_for

VARIABLES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize(
    ("no_proxy", "host", "covered"),
    [
        ("example.com", "example.com", True),
        ("example.com", "api.example.com", True),
        ("example.com", "anexample.com", False),
        (".example.com", "api.example.com", True),
        ("*.example.com", "api.example.com", True),
        ("EXAMPLE.com.", "example.com", True),
        ("localhost, 10.1.2.3 other.test", "other.test", True),
        ("example.com:9000", "example.com:9000", True),
        ("example.com:9000", "example.com", False),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.1.2.3:8000", "10.1.2.3:8000", True),
        ("[fd07::1]", "[fd07::1]", True),
        ("fd07::1", "[fd07::1]:8000", True),
        ("[fd07::1]:8000", "[fd07::1]:8000", True),
        ("[fd07::1]:8000", "[fd07::1]:8001", False),
        ("fd07:b51a:cc66:f0::/64", "[fd07:b51a:cc66:f0::9]", True),
        ("fd07:b51a:cc66:f0::/64", "example.com", False),
        ("*", "example.com", True),
        ("", "example.com", False),
        (",[,/,:,::/999", "example.com", False),
    ],
)
def test_no_proxy_is_honoured(monkeypatch: pytest.MonkeyPatch, no_proxy: str, host: str, covered: bool) -> None:
    monkeypatch.setenv("ALL_PROXY", "socks5://proxy.test:9")
    monkeypatch.setenv("NO_PROXY", no_proxy)
    assert (proxy_for(f"http://{host}/classes") is None) == covered


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "127.8.9.1", "[::1]:8000"])
def test_this_machine_needs_no_proxy(monkeypatch: pytest.MonkeyPatch, host: str) -> None:
    monkeypatch.setenv("http_proxy", "http://proxy.test:3128")
    assert proxy_for(f"http://{host}") is None


def test_the_variable_of_the_scheme_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    assert proxy_for("http://example.com") is None
    monkeypatch.setenv("ALL_PROXY", "socks5://all.test:1")
    monkeypatch.setenv("https_proxy", "me:secret@secure.test:2")
    plain, secure = proxy_for("http://example.com"), proxy_for("https://example.com")
    assert plain is not None
    assert secure is not None
    assert (plain.url, str(plain)) == ("socks5://all.test:1", "ALL_PROXY (socks5://all.test:1)")
    assert (secure.url, str(secure)) == ("http://me:secret@secure.test:2", "https_proxy (http://secure.test:2)")


@pytest.mark.parametrize(
    "address", ["socks://127.0.0.1:1080/", "ftp://proxy.test", "http://", "http://proxy.test:many"]
)
def test_a_proxy_that_cannot_be_used_is_named_by_its_variable(monkeypatch: pytest.MonkeyPatch, address: str) -> None:
    monkeypatch.setenv("ALL_PROXY", address)
    with pytest.raises(ProxyError, match=r"ALL_PROXY \(.*expected the address of a proxy"):
        proxy_for("http://example.com")


def asked(url: str, *, asynchronously: bool) -> Exception:
    """What either transport raises for an address that cannot be reached."""

    async def ask() -> None:
        async with httpx.AsyncClient(transport=AsyncProxiedTransport()) as client:
            await client.get(url)

    def ask_and_wait() -> None:
        with httpx.Client(transport=ProxiedTransport()) as client:
            client.get(url)

    with pytest.raises((ProxyError, httpx.TransportError)) as caught:
        asyncio.run(ask()) if asynchronously else ask_and_wait()
    return caught.value


@pytest.mark.parametrize("asynchronously", [False, True])
def test_both_transports_follow_the_same_rules(monkeypatch: pytest.MonkeyPatch, asynchronously: bool) -> None:
    direct = asked("http://127.0.0.1:9", asynchronously=asynchronously)
    assert isinstance(direct, httpx.ConnectError)
    assert "proxy" not in str(direct)
    monkeypatch.setenv("HTTP_PROXY", "http://me:secret@127.0.0.1:9")
    through = asked("http://service.invalid", asynchronously=asynchronously)
    assert isinstance(through, httpx.ConnectError)
    assert "through the proxy of HTTP_PROXY (http://127.0.0.1:9); NO_PROXY=service.invalid asks" in str(through)
    assert "secret" not in str(through)
    assert "proxy" not in str(asked("http://127.0.0.1:9", asynchronously=asynchronously))
    monkeypatch.setenv("HTTP_PROXY", "socks5://127.0.0.1:9")
    socks = asked("http://service.invalid", asynchronously=asynchronously)
    assert isinstance(socks, ProxyError)
    assert "SOCKS proxies need the package socksio" in str(socks)
