"""One HTTP GET into a file that resumes where an earlier attempt ended."""

import asyncio
import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

from server.net.least_rate import LeastRate

# Without a byte for this long, the connection counts as lost.
STALL_TIMEOUT_S = 30.0
# Between attempts that bring no byte, after one that did.
RETRY_PAUSES_S = (0.2, 1.0, 2.0, 4.0)
# Smaller writes make the hop to a thread cost more than the write.
WRITE_BYTES = 1024 * 1024

DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# Called with the bytes that the file has so far.
OnSize = Callable[[int], None]


class BodyTooLarge(Exception):
    """The body has more bytes than allowed."""


def ignore_size(_: int) -> None:
    """Report no progress."""


@dataclass(frozen=True, slots=True)
class Download:
    """A file to fetch from `url` into `partial`.

    With `is_immutable` the URL always names the same bytes; else the server's validator, kept
    beside `partial`, has a file that changed start over.
    """

    url: str
    partial: Path
    max_bytes: int
    headers: Mapping[str, str] = field(default_factory=dict)
    is_immutable: bool = False
    on_size: OnSize = ignore_size

    @property
    def validator(self) -> Path:
        """The file that keeps the ETag or date of what is in `partial`."""
        return self.partial.with_name(self.partial.name + ".etag")

    def discard(self) -> None:
        """Remove what has been received."""
        self.partial.unlink(missing_ok=True)
        self.validator.unlink(missing_ok=True)


def bearer(tokens: Mapping[str, str], url: str) -> dict[str, str]:
    """Return the header with the token for the URL's host: over https, on its standard port.

    Clients of httpx2 drop it at a redirect to another scheme, host or port.
    """
    try:
        # the parser of the client that sends it: another might see another host
        parsed = httpx2.URL(url)
    except (httpx2.InvalidURL, ValueError):  # the request will report it
        return {}
    # httpx2 has no port where it is the scheme's own
    is_secure = parsed.scheme == "https" and parsed.port is None
    token = tokens.get(parsed.host) if is_secure else None
    return {"Authorization": f"Bearer {token}"} if token else {}


async def http_get(client: httpx2.AsyncClient, wanted: Download) -> None:
    """Fetch the file, resuming what an earlier attempt left in `wanted.partial`.

    A broken connection is retried while attempts bring bytes. Raises httpx2.HTTPError, as
    HTTPStatusError for any status but 200 and 206; OSError when the disk refuses; BodyTooLarge,
    after which nothing is kept.
    """
    # an address that gives nothing at first is not retried
    pauses: Iterator[float] = iter(())
    while True:
        size_before = file_size(wanted.partial)
        try:
            await _attempt(client, wanted)
        except _RangeRefused:
            wanted.discard()
        except BodyTooLarge:
            wanted.discard()
            raise
        except httpx2.TransportError:
            if file_size(wanted.partial) > size_before:
                pauses = iter(RETRY_PAUSES_S)
            pause_s = next(pauses, None)
            if pause_s is None:
                raise
            await asyncio.sleep(pause_s)
        else:
            wanted.validator.unlink(missing_ok=True)
            return


def file_size(path: Path) -> int:
    """Return the file's size, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def storage_message(what: str, exc: OSError) -> str:
    """Say that the disk refuses `what`. No path: a client of the server may read it."""
    return (
        f"{what} cannot be stored: {exc.strerror}. What has been received is kept: free some space "
        f"and try again to resume."
        if exc.errno in DISK_FULL
        else f"{what} cannot be stored: {exc.strerror}."
    )


class _RangeRefused(Exception):
    """The server has nothing where an earlier attempt ended: all had come, or the file changed."""


async def _attempt(client: httpx2.AsyncClient, wanted: Download) -> None:
    resume = _resume_headers(wanted)
    # a range of a compressed body is no range of the file
    headers = {"Accept-Encoding": "identity", **wanted.headers, **resume}
    async with client.stream(
        "GET", wanted.url, headers=headers, timeout=STALL_TIMEOUT_S
    ) as response:
        status = response.status_code
        if status == 416 and resume:
            raise _RangeRefused
        if status not in ((200, 206) if resume else (200,)):
            message = f"{wanted.url} answered {status}"
            raise httpx2.HTTPStatusError(message, request=response.request, response=response)
        if not wanted.is_immutable:
            _keep_validator(response, wanted.validator)
        await _append(response, wanted)


def _resume_headers(wanted: Download) -> dict[str, str]:
    size = file_size(wanted.partial)
    if size and wanted.is_immutable:
        return {"Range": f"bytes={size}-"}
    if size and wanted.validator.exists():
        return {"Range": f"bytes={size}-", "If-Range": wanted.validator.read_text()}
    return {}


def _keep_validator(response: httpx2.Response, path: Path) -> None:
    validator = response.headers.get("etag") or response.headers.get("last-modified") or ""
    if validator and not validator.startswith("W/"):
        path.write_text(validator)
    else:
        path.unlink(missing_ok=True)


async def _append(response: httpx2.Response, wanted: Download) -> None:
    resumes = response.status_code == 206
    received = file_size(wanted.partial) if resumes else 0
    wanted.on_size(received)
    rate = LeastRate()
    with wanted.partial.open("ab" if resumes else "wb") as file:
        buffer = bytearray()
        try:
            async for chunk in response.aiter_bytes():
                rate.note(len(chunk))
                received += len(chunk)
                if received > wanted.max_bytes:
                    raise BodyTooLarge
                wanted.on_size(received)
                buffer += chunk
                if len(buffer) >= WRITE_BYTES:
                    # emptied first, so that a cancel meanwhile does not write it twice
                    full, buffer = buffer, bytearray()
                    await asyncio.to_thread(file.write, full)
        finally:
            file.write(buffer)
