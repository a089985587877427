"""One bounded download: addresses checked and pinned, redirects checked again, size and time bound.

A URL in a request is a stranger's wish: `server.net.addresses` says where one may lead.
"""

import asyncio
import http.cookiejar
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore2
import httpx2

from server.errors import FetchFailed, InvalidRequest, PayloadTooLarge
from server.net.addresses import AddressRefused, IpNetwork, PinnedTransport, check_address, resolve

MAX_REDIRECTS = 5
# Without a byte for so long, the far side is taken for gone.
STALL_TIMEOUT_S = 30.0
DOWNLOAD_ATTEMPTS = 5
# A submit waits for no name server longer than this; the address is checked again when used.
RESOLVE_TIMEOUT_S = 2.0
# Browsers and curl are let in where an unknown name is not.
USER_AGENT = "qwen-edit-server"
MAX_PORT = 65535
# A name, or an address of either kind.
_HOST = re.compile(r"[0-9A-Za-z._:-]+")


class _NoCookies(http.cookiejar.CookieJar):
    """Keeps nothing: what one client's download was given is not shown with another's."""

    def set_cookie(self, cookie: http.cookiejar.Cookie) -> None:
        """Forget it."""


class Fetcher:
    """Downloads what URLs in requests name. One per server; close it at the end."""

    def __init__(self, allowed: Sequence[IpNetwork], *, offline: bool = False) -> None:
        self._allowed = allowed
        self._offline = offline
        self._client = httpx2.AsyncClient(
            transport=PinnedTransport(allowed),
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
        alone, not along with a redirect. Raises FetchFailed, and PayloadTooLarge, after which
        nothing is kept.
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
            except PayloadTooLarge:
                # no later try could end better
                part.unlink(missing_ok=True)
                _validator_path(part).unlink(missing_ok=True)
                raise
            except _Broken as exc:
                has_grown = part.exists() and part.stat().st_size > size_before
                if attempt + 1 == DOWNLOAD_ATTEMPTS or not has_grown:
                    raise FetchFailed(str(exc), field=field) from exc
            except OSError as exc:
                raise FetchFailed(
                    f"{field}: {url} cannot be stored on this server: {exc.strerror}. What came "
                    f"is kept: the same request goes on from there.",
                    field=field,
                ) from exc

    @asynccontextmanager
    async def _get(
        self, url: str, timeout_s: float, field: str, headers: Mapping[str, str]
    ) -> AsyncIterator[httpx2.Response]:
        """The response to a GET; `timeout_s` bounds the whole block. Raises FetchFailed."""
        async with self._send("GET", url, timeout_s, field, headers=headers) as response:
            if response.status_code == 416 and "Range" in headers:
                raise _RangeRefused
            if response.status_code not in ((200, 206) if "Range" in headers else (200,)):
                status = response.status_code
                raise FetchFailed(f"{field}: {url} answered {status}.", field=field)
            yield response

    @asynccontextmanager
    async def _send(
        self, method: str, url: str, timeout_s: float, field: str, **options: Any
    ) -> AsyncIterator[httpx2.Response]:
        """The response to a request; `timeout_s` bounds the whole block. Raises FetchFailed."""
        self.check_online(url, field)
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._client.stream(method, url, timeout=STALL_TIMEOUT_S, **options) as response,
            ):
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
                for address in await resolve(host, parsed.port or 0):
                    check_address(address, self._allowed)
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
