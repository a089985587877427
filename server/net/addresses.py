"""The addresses that requests may name, and connections pinned to checked addresses.

A host is resolved once. All its addresses must be public or in a network that the operator
allows, and the connection goes to a checked address, so a second DNS answer cannot redirect it.
"""

import asyncio
import ipaddress
import socket
from collections.abc import Iterable, Sequence
from typing import Any

import httpcore2
import httpx2

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")


# Neither the library nor the registry that it follows calls these global in every version: the
# anycast of 6to4, protocol assignments, IPv4-translated addresses, segment routing, documentation.
REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "192.0.0.0/24",
        "192.88.99.0/24",
        "::ffff:0:0:0/96",
        "5f00::/16",
        "3fff::/20",
    )
)
# Those of the web, and those that no system service has.
ALLOWED_PORTS = frozenset({80, 443})
FIRST_FREE_PORT = 1024


class AddressRefused(Exception):
    """Requests may not name this address, or this port of it."""


class PinnedTransport(httpx2.AsyncHTTPTransport):
    """httpx2's transport, connecting to checked addresses only."""

    def __init__(self, allowed: Sequence[IpNetwork]) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            network_backend=_PinnedBackend(allowed),
        )


class _PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Resolves a host, checks it and connects. TLS still verifies the host's name."""

    def __init__(self, allowed: Sequence[IpNetwork]) -> None:
        self._allowed = allowed
        self._backend = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        addresses = await resolve(host, port)
        for address in addresses:
            check_address(address, port, self._allowed)
        failure: Exception | None = None
        for address in addresses:
            try:
                return await self._backend.connect_tcp(
                    str(address), port, timeout, local_address, socket_options
                )
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as exc:
                failure = exc
        raise failure or httpcore2.ConnectError(f"{host} has no address")

    async def sleep(self, seconds: float) -> None:
        await self._backend.sleep(seconds)


async def resolve(host: str, port: int) -> list[IpAddress]:
    """The addresses of `host`, in the resolver's order. Raises httpcore2.ConnectError."""
    loop = asyncio.get_running_loop()
    try:
        infos = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise httpcore2.ConnectError(f"the name {host} cannot be resolved") from exc
    names = (str(info[4][0]).partition("%")[0] for info in infos)
    return list(dict.fromkeys(ipaddress.ip_address(name) for name in names))


def check_address(address: IpAddress, port: int, allowed: Sequence[IpNetwork]) -> None:
    """Raise AddressRefused unless `address` is public, with a port of the web, or allowed.

    An allowed network may be asked on every port: its operator knows what listens there.
    """
    if any(address.version == net.version and address in net for net in allowed):
        return
    if isinstance(address, ipaddress.IPv6Address) and (embedded := _embedded_address(address)):
        check_address(embedded, port, allowed)
        return
    is_local = isinstance(address, ipaddress.IPv6Address) and (
        address.is_site_local or address in LOCAL_NAT64
    )
    is_refused = any(address.version == net.version and address in net for net in REFUSED)
    if is_local or is_refused or not address.is_global or address.is_multicast:
        raise AddressRefused(
            f"{address} is not a public address. The operator can allow its network with "
            f"QWEN_EDIT_ALLOW_NETWORKS."
        )
    if port not in ALLOWED_PORTS and port < FIRST_FREE_PORT:
        raise AddressRefused(
            f"port {port} is not allowed: use 80, 443 or one from {FIRST_FREE_PORT} on."
        )


def _embedded_address(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that this one leads to: mapped, 6to4, NAT64 or IPv4-compatible."""
    is_own = address.is_loopback or address.is_unspecified
    if address in NAT64 or (address in IPV4_COMPATIBLE and not is_own):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
