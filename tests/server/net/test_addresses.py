"""Addresses that requests may name, and connections to checked addresses only."""

import ipaddress
import socket
from typing import Any

import httpcore2
import pytest

from server.net import addresses
from server.net.addresses import AddressRefused, IpAddress, check_address, resolve

LOOPBACK = [ipaddress.ip_network("127.0.0.0/8")]


def resolves_to(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Every host resolves to these addresses, in this order."""

    async def resolved(host: str, port: int) -> list[IpAddress]:
        return [ipaddress.ip_address(name) for name in names]

    monkeypatch.setattr(addresses, "resolve", resolved)


class FakeNetwork:
    """Notes the addresses that connections go to; those in `dead` refuse them."""

    def __init__(self, *dead: str) -> None:
        self.dead = dead
        self.connected: list[str] = []

    async def connect_tcp(self, host: str, *_: Any) -> str:
        self.connected.append(host)
        if host in self.dead:
            raise httpcore2.ConnectError(f"{host} is dead")
        return f"stream to {host}"


def backend(network: FakeNetwork) -> Any:
    made = addresses._PinnedBackend(LOOPBACK)
    made._backend = network  # type: ignore[assignment]
    return made


async def test_connection_goes_to_the_address_that_was_checked(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolves_to(monkeypatch, "127.0.0.7")
    network = FakeNetwork()

    assert await backend(network).connect_tcp("host", 80) == "stream to 127.0.0.7"
    assert network.connected == ["127.0.0.7"]


async def test_host_is_refused_when_one_of_its_addresses_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolves_to(monkeypatch, "127.0.0.7", "10.0.0.1")
    network = FakeNetwork()

    with pytest.raises(AddressRefused, match=r"10\.0\.0\.1"):
        await backend(network).connect_tcp("host", 80)
    assert network.connected == []


async def test_next_address_is_tried_when_the_first_one_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolves_to(monkeypatch, "127.0.0.7", "127.0.0.8")

    stream = await backend(FakeNetwork("127.0.0.7")).connect_tcp("host", 80)

    assert stream == "stream to 127.0.0.8"


async def test_last_error_is_raised_when_every_address_refuses(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    resolves_to(monkeypatch, "127.0.0.7", "127.0.0.8")

    with pytest.raises(httpcore2.ConnectError, match=r"127\.0\.0\.8 is dead"):
        await backend(FakeNetwork("127.0.0.7", "127.0.0.8")).connect_tcp("host", 80)


async def test_host_without_an_address_cannot_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch)

    with pytest.raises(httpcore2.ConnectError, match="host has no address"):
        await backend(FakeNetwork()).connect_tcp("host", 80)


async def test_resolve_returns_each_address_once_in_the_resolvers_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def answers(*_: object, **__: object) -> list[Any]:
        found = ["127.0.0.2", "fe80::1%eth0", "127.0.0.1", "127.0.0.2"]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (name, 80)) for name in found]

    monkeypatch.setattr(socket, "getaddrinfo", answers)

    assert [str(address) for address in await resolve("host", 80)] == [
        "127.0.0.2",
        "fe80::1",
        "127.0.0.1",
    ]


async def test_resolve_raises_connect_error_for_an_unknown_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise socket.gaierror("unknown")

    monkeypatch.setattr(socket, "getaddrinfo", fails)

    with pytest.raises(httpcore2.ConnectError, match="the name host cannot be resolved"):
        await resolve("host", 80)


@pytest.mark.parametrize(
    "address",
    ["8.8.8.8", "1.1.1.1", "172.15.0.1", "2606:4700:4700::1111", "2002:808:808::1"],
)
def test_public_address_is_allowed(address: str) -> None:
    check_address(ipaddress.ip_address(address), 443, [])


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.255.255.254", "0.0.0.0", "10.0.0.1", "172.16.0.1", "172.31.255.255",
        "192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "239.1.2.3", "240.0.0.1",
        "255.255.255.255", "198.18.0.1", "192.0.2.1", "192.0.0.192", "192.88.99.1",
        "5f00::1", "3fff::1", "3fff:fff:ffff::1",
        "::", "::1", "fe80::1", "fc00::1", "fd00::1", "ff02::1", "2001:db8::1",
    ],
)  # fmt: skip
def test_address_that_is_not_public_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused, match="QWEN_EDIT_ALLOW_NETWORKS"):
        check_address(ipaddress.ip_address(address), 443, [])


@pytest.mark.parametrize(
    "address",
    [
        "::ffff:127.0.0.1",  # mapped
        "::ffff:10.0.0.1",
        "::ffff:0:127.0.0.1",  # translated
        "::ffff:169.254.169.254",
        "2002:7f00:1::",  # 6to4
        "2002:a9fe:a9fe::",
        "64:ff9b::127.0.0.1",  # NAT64
        "64:ff9b::169.254.169.254",
        "64:ff9b:1::10.0.0.1",  # NAT64 of one's own network
        "2001:0:4136:e378:8000:63bf:3fff:fdd2",  # Teredo
        "::127.0.0.1",  # the oldest way, IPv4-compatible
        "fec0::1",  # site-local, the predecessor of fc00::/7
    ],
)
def test_address_that_embeds_a_private_one_is_refused(address: str) -> None:
    with pytest.raises(AddressRefused):
        check_address(ipaddress.ip_address(address), 443, [])


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("10.1.2.3", "10.0.0.0/8"),
        ("127.0.0.1", "127.0.0.1/32"),
        ("fd00::5", "fd00::/8"),
        ("::1", "::1/128"),
    ],
)
def test_private_address_is_allowed_in_an_allowed_network(address: str, network: str) -> None:
    check_address(ipaddress.ip_address(address), 443, [ipaddress.ip_network(network)])


@pytest.mark.parametrize(
    ("address", "network"),
    [("10.1.2.3", "10.2.0.0/16"), ("127.0.0.1", "::/0"), ("::1", "0.0.0.0/0")],
)
def test_private_address_is_refused_outside_the_allowed_network(address: str, network: str) -> None:
    with pytest.raises(AddressRefused):
        check_address(ipaddress.ip_address(address), 443, [ipaddress.ip_network(network)])


@pytest.mark.parametrize("port", [80, 443, 1024, 8080, 65535])
def test_port_of_the_web_or_of_no_service_is_allowed(port: int) -> None:
    check_address(ipaddress.ip_address("8.8.8.8"), port, [])


@pytest.mark.parametrize("port", [1, 22, 25, 81, 445, 1023])
@pytest.mark.parametrize("address", ["8.8.8.8", "2606:4700:4700::1111", "64:ff9b::8.8.8.8"])
def test_port_of_another_service_is_refused(address: str, port: int) -> None:
    with pytest.raises(AddressRefused, match=f"port {port} is not allowed: use 80, 443 or one"):
        check_address(ipaddress.ip_address(address), port, [])


def test_allowed_network_may_be_asked_on_every_port() -> None:
    check_address(ipaddress.ip_address("127.0.0.1"), 22, LOOPBACK)


async def test_port_is_checked_for_every_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    resolves_to(monkeypatch, "8.8.8.8")
    network = FakeNetwork()

    with pytest.raises(AddressRefused, match="port 22"):
        await backend(network).connect_tcp("host", 22)
    assert network.connected == []
