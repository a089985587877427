"""HTTP requests to URLs that clients name: checked addresses, limited size and time.

Redirects are checked like the URL itself; `server.net.addresses` has the rules.
"""

import asyncio
import http.cookiejar
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import httpcore2
import httpx2

from server.durable_files import REFUSALS
from server.errors import FetchFailed, InvalidRequest, PayloadTooLarge, StorageFull
from server.net.addresses import AddressRefused, IpNetwork, PinnedTransport, check_address, resolve
from server.net.download import (
    STALL_TIMEOUT_S,
    BodyTooLarge,
    Download,
    http_get,
    storage_message,
)
from server.net.least_rate import LeastRate

MAX_REDIRECTS = 5
# A submit waits no longer for a name server; the address is checked again when it is used.
RESOLVE_TIMEOUT_S = 2.0
# Some hosts refuse the HTTP library's own name.
USER_AGENT = "qwen-edit-server"
MAX_PORT = 65535
DEFAULT_PORTS = {"http": 80, "https": 443}
# A name, or an address of either kind.
_HOST = re.compile(r"[0-9A-Za-z._:-]+")


class _NoCookies(http.cookiejar.CookieJar):
    """Keeps no cookies: one client's download must not send those of another's."""

    def set_cookie(self, cookie: http.cookiejar.Cookie) -> None:
        """Ignore the cookie."""


class Fetcher:
    """Sends requests to URLs that clients name. One per server; close it at the end."""

    def __init__(self, allowed: Sequence[IpNetwork], *, offline: bool = False) -> None:
        self._allowed = allowed
        self._offline = offline
        self._client = httpx2.AsyncClient(
            transport=PinnedTransport(allowed),
            headers={"User-Agent": USER_AGENT},
            follow_redirects=True,
            max_redirects=MAX_REDIRECTS,
            # a proxy from the environment would resolve names itself and bypass the check
            trust_env=False,
            cookies=_NoCookies(),
        )

    async def close(self) -> None:
        """Close idle connections."""
        await self._client.aclose()

    async def read(
        self,
        url: str,
        *,
        max_bytes: int,
        timeout_s: float,
        field: str,
        headers: Mapping[str, str] | None = None,
    ) -> bytes:
        """Return the body at `url`. Raises FetchFailed, PayloadTooLarge, both with the reason."""
        body = bytearray()
        async with self._send("GET", url, timeout_s, field, headers=headers) as response:
            if response.status_code != 200:
                message = f"{field}: {url} answered {response.status_code}."
                raise FetchFailed(message, field=field)
            rate = LeastRate()
            async for chunk in response.aiter_bytes():
                rate.note(len(chunk))
                body += chunk
                if len(body) > max_bytes:
                    raise _too_large(url, max_bytes, field)
        return bytes(body)

    async def download(self, wanted: Download, *, timeout_s: float, field: str) -> None:
        """Fetch a file, resuming what an earlier attempt left; `timeout_s` bounds all attempts.

        Raises FetchFailed, StorageFull, and PayloadTooLarge, after which nothing is kept.
        """
        async with self._reported(wanted.url, timeout_s, field):
            try:
                await http_get(self._client, wanted)
            except BodyTooLarge as exc:
                raise _too_large(wanted.url, wanted.max_bytes, field) from exc
            except httpx2.HTTPStatusError as exc:
                raise FetchFailed(f"{field}: {exc}.", field=field) from exc
            except OSError as exc:
                if exc.errno in REFUSALS:
                    message = storage_message("The download", exc)
                    raise StorageFull(message) from exc
                message = f"{field}: {storage_message(wanted.url, exc)}"
                raise FetchFailed(message, field=field) from exc

    @asynccontextmanager
    async def _send(
        self, method: str, url: str, timeout_s: float, field: str, **options: Any
    ) -> AsyncIterator[httpx2.Response]:
        """The response to a request; `timeout_s` bounds the whole block. Raises FetchFailed."""
        async with (
            self._reported(url, timeout_s, field),
            self._client.stream(method, url, timeout=STALL_TIMEOUT_S, **options) as response,
        ):
            yield response

    @asynccontextmanager
    async def _reported(self, url: str, timeout_s: float, field: str) -> AsyncIterator[None]:
        """Turn the errors of a request to `url` into FetchFailed; `timeout_s` bounds the block."""
        self.check_online(url, field)
        try:
            async with asyncio.timeout(timeout_s):
                yield
        except TimeoutError as exc:
            raise FetchFailed(
                f"{field}: {url} took longer than {timeout_s:g} seconds.", field=field
            ) from exc
        except AddressRefused as exc:
            raise FetchFailed(f"{field}: {url} is refused: {exc}", field=field) from exc
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as exc:
            reason = str(exc) or type(exc).__name__
            raise FetchFailed(f"{field}: {url} cannot be fetched: {reason}", field=field) from exc

    async def check_address(self, url: str, field: str) -> None:
        """Raise InvalidRequest for an address that `post` would refuse.

        A name that cannot be resolved just now passes: it is looked up again when it is used.
        """
        try:
            parsed = httpx2.URL(url)
        except (httpx2.InvalidURL, ValueError) as exc:
            raise InvalidRequest(f"{field} is no address: {exc}", field=field) from exc
        host = parsed.raw_host.decode("ascii")
        if parsed.scheme not in ("http", "https") or not host:
            raise InvalidRequest(f"{field} must be an http(s) URL, got {url!r}", field=field)
        if not _HOST.fullmatch(host) or (parsed.port or 0) > MAX_PORT:
            raise InvalidRequest(f"{field} is no address: {url!r}", field=field)
        self.check_online(url, field)
        try:
            async with asyncio.timeout(RESOLVE_TIMEOUT_S):
                port = parsed.port or DEFAULT_PORTS[parsed.scheme]
                for address in await resolve(host, port):
                    check_address(address, port, self._allowed)
        except (TimeoutError, httpcore2.ConnectError):
            return
        except AddressRefused as exc:
            raise InvalidRequest(f"{field}: {url} is refused: {exc}", field=field) from exc

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, field: str
    ) -> int:
        """Send `body` to `url` and give the status of the answer; no redirect is followed.

        Raises FetchFailed.
        """
        options = {"content": body, "headers": headers, "follow_redirects": False}
        async with self._send("POST", url, timeout_s, field, **options) as response:
            return response.status_code

    def check_online(self, url: str, field: str) -> None:
        """Raise FetchFailed when the server runs offline."""
        if self._offline:
            raise FetchFailed(
                f"{field}: this server runs offline and fetches nothing; {url} was not tried.",
                field=field,
            )


def _too_large(url: str, max_bytes: int, field: str) -> PayloadTooLarge:
    message = f"{field}: {url} has more than the allowed {max_bytes / 2**20:.0f} MiB."
    return PayloadTooLarge(message, field=field)
