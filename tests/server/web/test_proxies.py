"""Whose X-Forwarded headers are believed."""

from ipaddress import ip_network

import pytest

from server.web.middleware import BASE_URL, CLIENT_ADDRESS, Forwarded
from server.web.proxies import TrustedProxies
from tests.server.web.asgi import EchoApp, call

FORWARDED = {
    "X-Forwarded-Proto": "https",
    "X-Forwarded-Host": "edit.example",
    "X-Forwarded-Prefix": "/x",
    "X-Forwarded-For": "203.0.113.9",
}
PROXIES = TrustedProxies([ip_network("10.0.0.0/8"), ip_network("fd00::/8")])


async def state(client: str, headers: dict[str, str]) -> tuple[str, str]:
    """The server's URL and the client's address that a request has."""
    app = EchoApp()
    await call(Forwarded(app, None, PROXIES), headers={"Host": "own"} | headers, client=client)
    assert app.scope is not None
    found = app.scope["state"]
    return found[BASE_URL], found[CLIENT_ADDRESS]


@pytest.mark.parametrize("client", ["10.1.2.3", "fd00::1", "::ffff:10.1.2.3"])
async def test_trusted_proxy_tells_the_urls_and_the_client(client: str) -> None:
    assert await state(client, FORWARDED) == ("https://edit.example/x", "203.0.113.9")


@pytest.mark.parametrize("client", ["127.0.0.1", "192.0.2.1", "fe80::1", ""])
async def test_anybody_else_is_not_believed(client: str) -> None:
    assert await state(client, FORWARDED) == ("http://own", client)


@pytest.mark.parametrize(
    ("forwarded", "expected"),
    [
        # what stands before the last address that is no proxy was sent by the client itself
        ("1.1.1.1, 203.0.113.9", "203.0.113.9"),
        ("203.0.113.9, 10.9.9.9", "203.0.113.9"),
        ("1.1.1.1, 203.0.113.9, 10.9.9.9, fd00::2", "203.0.113.9"),
        ("10.9.9.9", "10.9.9.9"),
        ("nonsense", "10.1.2.3"),
        ("203.0.113.9, nonsense", "10.1.2.3"),
        ("", "10.1.2.3"),
    ],
)
async def test_client_is_the_last_address_that_is_no_proxy(forwarded: str, expected: str) -> None:
    assert (await state("10.1.2.3", {"X-Forwarded-For": forwarded}))[1] == expected
