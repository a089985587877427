"""One bounded download: addresses checked and pinned, redirects checked again, size and time bound.

A URL in a request is a stranger's wish. The host is resolved once, every address it has must be
public (or in a network that the operator allowed), and the connection goes to the address that
was checked, so that no second answer of the name server can lead elsewhere.
"""

import asyncio
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpcore2
import httpx2

from server.errors import FetchFailed, PayloadTooLarge

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

MAX_REDIRECTS = 5
CONNECT_TIMEOUT_S = 10.0
# Browsers and curl are let in where an unknown name is not.
USER_AGENT = "qwen-edit-server"


class AddressRefused(Exception):
    """A host's address is not one that requests may name."""


class Fetcher:
    """Downloads what URLs in requests name. One per server; close it at the end."""

    def __init__(self, allowed: Sequence[IpNetwork], *, offline: bool = False) -> None:
        self._offline = offline
        self._client = httpx2.AsyncClient(
            transport=_PinnedTransport(allowed),
            headers={"User-Agent": USER_AGENT},
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            # a proxy from the environment would resolve names itself, past the check
            trust_env=False,
        )

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._client.aclose()

    async def read(self, url: str, *, max_bytes: int, timeout_s: float, field: str) -> bytes:
        """The body at `url`. Raises FetchFailed, PayloadTooLarge, both with a whole sentence."""
        body = bytearray()
        async with self.stream(
            url, max_bytes=max_bytes, timeout_s=timeout_s, field=field
        ) as chunks:
            async for chunk in chunks:
                body += chunk
        return bytes(body)

    @asynccontextmanager
    async def stream(
        self, url: str, *, max_bytes: int, timeout_s: float, field: str
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body at `url` in chunks, for files too large for memory.

        `timeout_s` bounds the whole block. Raises like `read`.
        """
        if self._offline:
            raise FetchFailed(
                f"{field}: this server runs offline and fetches nothing; {url} was not tried.",
                field=field,
            )
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client.stream("GET", url, timeout=CONNECT_TIMEOUT_S) as response,
            ):
                if response.status_code != 200:
                    raise FetchFailed(
                        f"{field}: {url} answered {response.status_code}.", field=field
                    )
                yield _bounded(response, max_bytes, field)
        except TimeoutError as exc:
            raise FetchFailed(
                f"{field}: {url} took longer than {timeout_s:g} seconds.", field=field
            ) from exc
        except AddressRefused as exc:
            raise FetchFailed(f"{field}: {url} is refused: {exc}", field=field) from exc
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as exc:
            reason = str(exc) or type(exc).__name__
            raise FetchFailed(f"{field}: {url} cannot be fetched: {reason}", field=field) from exc


async def _bounded(response: httpx2.Response, max_bytes: int, field: str) -> AsyncIterator[bytes]:
    received = 0
    async for chunk in response.aiter_bytes():
        received += len(chunk)
        if received > max_bytes:
            raise PayloadTooLarge(
                f"{field}: {response.url} has more than the allowed {max_bytes / 2**20:.0f} MiB.",
                field=field,
            )
        yield chunk


class _PinnedTransport(httpx2.AsyncHTTPTransport):
    """httpx2's transport over connections that go to checked addresses only."""

    def __init__(self, allowed: Sequence[IpNetwork]) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=httpx2.create_ssl_context(),
            network_backend=_PinnedBackend(allowed),
        )


class _PinnedBackend(httpcore2.AsyncNetworkBackend):
    """Resolves, checks, and connects to what was checked. TLS still verifies the host's name."""

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
            check_address(address, self._allowed)
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


def check_address(address: IpAddress, allowed: Sequence[IpNetwork]) -> None:
    """Raise AddressRefused unless `address` is public or in an allowed network."""
    if any(address.version == net.version and address in net for net in allowed):
        return
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped or address.sixtofour
        if embedded is not None:
            check_address(embedded, allowed)
    if not address.is_global or address.is_multicast:
        raise AddressRefused(
            f"{address} is not a public address. The operator can allow its network with "
            f"QWEN_EDIT_ALLOW_NETWORKS."
        )
