"""One bounded download: addresses checked and pinned, redirects checked again, size and time bound.

A URL in a request is a stranger's wish. The host is resolved once, every address it has must be
public (or in a network that the operator allowed), and the connection goes to the address that
was checked, so that no second answer of the name server can lead elsewhere.
"""

import asyncio
import http.cookiejar
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore2
import httpx2

from server.errors import FetchFailed, PayloadTooLarge

IpNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
LOCAL_NAT64 = ipaddress.IPv6Network("64:ff9b:1::/48")
IPV4_COMPATIBLE = ipaddress.IPv6Network("::/96")
MAX_REDIRECTS = 5
# Without a byte for so long, the far side is taken for gone.
STALL_TIMEOUT_S = 30.0
DOWNLOAD_ATTEMPTS = 5
# Browsers and curl are let in where an unknown name is not.
USER_AGENT = "qwen-edit-server"


class _NoCookies(http.cookiejar.CookieJar):
    """Keeps nothing: what one client's download was given is not shown with another's."""

    def set_cookie(self, cookie: http.cookiejar.Cookie) -> None:
        """Forget it."""


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
            cookies=_NoCookies(),
        )

    async def close(self) -> None:
        """Close the connections that are kept."""
        await self._client.aclose()

    async def read(self, url: str, *, max_bytes: int, timeout_s: float, field: str) -> bytes:
        """The body at `url`. Raises FetchFailed, PayloadTooLarge, both with a whole sentence."""
        body = bytearray()
        async with self._get(url, timeout_s, field, {}) as response:
            async for chunk in _bounded(response, max_bytes, field):
                body += chunk
        return bytes(body)

    async def download(
        self,
        url: str,
        part: Path,
        *,
        max_bytes: int,
        timeout_s: float,
        field: str,
        token: str | None = None,
    ) -> None:
        """Write the body at `url` into the file `part`, going on where an earlier try ended.

        What a broken connection, or a server that was killed, left in `part` is asked for no
        second time, if the far side says that it is still the same. `token` goes to this host
        alone, not along with a redirect. Raises FetchFailed, PayloadTooLarge.
        """
        for attempt in range(DOWNLOAD_ATTEMPTS):
            # compressed on the way, a range of it would be no range of the file
            headers = {"Accept-Encoding": "identity", **_resume_headers(part)}
            if token is not None:
                headers["Authorization"] = f"Bearer {token}"
            size_before = part.stat().st_size if part.exists() else 0
            try:
                async with self._get(url, timeout_s, field, headers) as response:
                    await _append(response, part, max_bytes, field)
                return
            except _RangeRefused:
                # the whole file had come before, or another lies there now
                part.unlink()
            except _Broken as exc:
                has_grown = part.exists() and part.stat().st_size > size_before
                if attempt + 1 == DOWNLOAD_ATTEMPTS or not has_grown:
                    raise FetchFailed(str(exc), field=field) from exc

    @asynccontextmanager
    async def _get(
        self, url: str, timeout_s: float, field: str, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        """The response to a GET; `timeout_s` bounds the whole block. Raises FetchFailed."""
        self.check_online(url, field)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client.stream(
                    "GET", url, timeout=STALL_TIMEOUT_S, headers=headers
                ) as response,
            ):
                if response.status_code == 416 and "Range" in headers:
                    raise _RangeRefused
                if response.status_code not in ((200, 206) if "Range" in headers else (200,)):
                    status = response.status_code
                    raise FetchFailed(f"{field}: {url} answered {status}.", field=field)
                yield response
        except TimeoutError as exc:
            raise FetchFailed(
                f"{field}: {url} took longer than {timeout_s:g} seconds.", field=field
            ) from exc
        except AddressRefused as exc:
            raise FetchFailed(f"{field}: {url} is refused: {exc}", field=field) from exc
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as exc:
            reason = str(exc) or type(exc).__name__
            raise _Broken(f"{field}: {url} cannot be fetched: {reason}", field=field) from exc

    def check_online(self, url: str, field: str) -> None:
        """Raise FetchFailed when the server was told to fetch nothing."""
        if self._offline:
            raise FetchFailed(
                f"{field}: this server runs offline and fetches nothing; {url} was not tried.",
                field=field,
            )


class _RangeRefused(Exception):
    """The far side has nothing at the place where an earlier try ended."""


class _Broken(FetchFailed):
    """The connection broke: another try may succeed."""


def _resume_headers(part: Path) -> dict[str, str]:
    """What asks for the rest of a file, on condition that it has not changed."""
    validator = _validator_path(part)
    if not (part.exists() and part.stat().st_size and validator.exists()):
        return {}
    return {"Range": f"bytes={part.stat().st_size}-", "If-Range": validator.read_text()}


async def _append(response: httpx2.Response, part: Path, max_bytes: int, field: str) -> None:
    resumes = response.status_code == 206
    validator = response.headers.get("etag") or response.headers.get("last-modified") or ""
    if validator and not validator.startswith("W/"):
        _validator_path(part).write_text(validator)
    else:
        _validator_path(part).unlink(missing_ok=True)
    received = part.stat().st_size if resumes else 0
    with part.open("ab" if resumes else "wb") as file:
        async for chunk in _bounded(response, max_bytes, field, received):
            await asyncio.to_thread(file.write, chunk)


def _validator_path(part: Path) -> Path:
    return part.with_name(part.name + ".etag")


async def _bounded(
    response: httpx2.Response, max_bytes: int, field: str, received: int = 0
) -> AsyncIterator[bytes]:
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
    if isinstance(address, ipaddress.IPv6Address) and (embedded := _embedded_address(address)):
        check_address(embedded, allowed)
        return
    is_local = isinstance(address, ipaddress.IPv6Address) and (
        address.is_site_local or address in LOCAL_NAT64
    )
    if is_local or not address.is_global or address.is_multicast:
        raise AddressRefused(
            f"{address} is not a public address. The operator can allow its network with "
            f"QWEN_EDIT_ALLOW_NETWORKS."
        )


def _embedded_address(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """The IPv4 address that packets to this one end at: mapped, 6to4, NAT64, IPv4-compatible."""
    is_own = address.is_loopback or address.is_unspecified
    if address in NAT64 or (address in IPV4_COMPATIBLE and not is_own):
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour
