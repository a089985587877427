"""Input images: a URL, a data URI, base64 or bytes becomes a validated image on disk.

The images of a job are `inputs/<job id>/<n>.png` until the job has ended.
"""

import asyncio
import base64
import binascii
import re
import shutil
import urllib.parse
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from server import durable_files
from server.durable_files import disk_errors
from server.errors import InvalidImage, NotFound
from server.limits import MAX_IMAGE_BYTES
from server.media.decoder_pool import DecoderPool
from server.media.images import check_bytes
from server.net.fetch import Fetcher

# Decoding base64 of 28 MB takes a core for 0.1 s; more threads would starve the event loop.
BASE64_THREADS = 2
_URL = re.compile(r"https?://", re.IGNORECASE)
_BASE64_START = re.compile(r"[A-Za-z0-9+/_\-\s=]+")


class InputStore:
    """The folder of input images, one subfolder per unfinished job."""

    def __init__(
        self,
        folder: Path,
        fetcher: Fetcher,
        decoders: DecoderPool,
        *,
        own_file: Callable[[str], Path | None],
        fetch_timeout_s: float,
    ) -> None:
        """`own_file` maps a URL of this server to its file, and any other URL to None."""
        self._folder = folder
        self._fetcher = fetcher
        self._decoders = decoders
        self._own_file = own_file
        self._fetch_timeout_s = fetch_timeout_s
        self._threads = ThreadPoolExecutor(BASE64_THREADS, thread_name_prefix="base64")

    def close(self) -> None:
        """Wait until running decodes of base64 have finished."""
        self._threads.shutdown(wait=True)

    async def store_inline(
        self, job_id: str, images: Sequence[str | bytes], max_bytes: int
    ) -> tuple[str | None, ...]:
        """Validate and store the images that the request carries.

        Returns one entry per image: its URL, still to be fetched, or None if it is stored.
        Raises InvalidImage, PayloadTooLarge, FetchFailed (offline), StorageFull, Unavailable; then
        nothing is left on disk.
        """
        sources = []
        try:
            for index, image in enumerate(images):
                sources.append(await self._store_unless_url(job_id, index, image, max_bytes))
        except BaseException:
            await self.delete(job_id)
            raise
        return tuple(sources)

    async def fetch(self, job_id: str, index: int, url: str, max_bytes: int) -> None:
        """Fetch, validate and store an image; a URL of this server is read from disk.

        Raises FetchFailed, InvalidImage, PayloadTooLarge, StorageFull, Unavailable.
        """
        field = f"images/{index}"
        own = self._own_file(url)
        if own is not None:
            check_bytes(own.stat().st_size, max_bytes, field)
            data = await asyncio.to_thread(own.read_bytes)
        else:
            data = await self._fetcher.read(
                url, max_bytes=max_bytes, timeout_s=self._fetch_timeout_s, field=field
            )
        await self._store(job_id, index, data, field)

    async def read(self, job_id: str, count: int) -> tuple[bytes, ...]:
        """Return the job's images as RGB PNGs. Raises NotFound if one is missing."""
        paths = [self._path(job_id, index) for index in range(count)]
        try:
            return tuple([await asyncio.to_thread(path.read_bytes) for path in paths])
        except FileNotFoundError as exc:
            raise NotFound(f"An input image of job {job_id} is gone.") from exc

    async def delete(self, job_id: str) -> None:
        """Remove the job's images."""
        await asyncio.to_thread(shutil.rmtree, self._folder / job_id, ignore_errors=True)

    def job_ids(self) -> list[str]:
        """The jobs with a folder."""
        return [path.name for path in self._folder.iterdir()] if self._folder.is_dir() else []

    async def _store_unless_url(
        self, job_id: str, index: int, image: str | bytes, max_bytes: int
    ) -> str | None:
        field = f"images/{index}"
        if isinstance(image, str) and is_url(image):
            url = image.strip()
            if self._own_file(url) is None:
                self._fetcher.check_online(url, field)
            return url
        loop = asyncio.get_running_loop()
        if isinstance(image, str):
            data = await loop.run_in_executor(self._threads, decode_text, image, max_bytes, field)
        else:
            data = image
            check_bytes(len(data), max_bytes, field)
        await self._store(job_id, index, data, field)
        return None

    async def _store(self, job_id: str, index: int, data: bytes, field: str) -> None:
        path = self._path(job_id, index)
        with disk_errors("The image"):
            path.parent.mkdir(parents=True, exist_ok=True)
            await self._decoders.write_png(data, path, field)
            # not while it is decoded: a slow disk is no fault of the image
            for written in (path, path.parent, self._folder):
                await asyncio.to_thread(durable_files.sync, written)

    def _path(self, job_id: str, index: int) -> Path:
        return self._folder / job_id / f"{index}.png"


def is_url(text: str) -> bool:
    """Return whether an image reference is a URL."""
    return bool(_URL.match(text.strip()))


def is_inline(text: str) -> bool:
    """Return whether an image reference looks like a data URI or base64."""
    # the start is enough: a path has a dot, and the whole can be many megabytes long
    start = text[:256].lstrip()
    return start[:5].lower() == "data:" or bool(_BASE64_START.fullmatch(start))


def decode_text(text: str, max_bytes: int = MAX_IMAGE_BYTES, field: str = "image") -> bytes:
    """Decode a data URI or plain base64; the declared media type is ignored.

    Raises InvalidImage if it is neither, PayloadTooLarge before anything is decoded.
    """
    payload = text.strip()
    if payload[:5].lower() == "data:":
        head, comma, payload = payload.partition(",")
        if not comma:
            raise InvalidImage(f"{field} is a data URI without data.", field=field)
        if not head.lower().endswith(";base64"):
            data = urllib.parse.unquote_to_bytes(payload)
            check_bytes(len(data), max_bytes, field)
            return data
        if "%" in payload:
            payload = urllib.parse.unquote(payload)
    check_bytes(len(payload) * 3 // 4, max_bytes, field)
    compact = "".join(payload.split()).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(compact + "=" * (-len(compact) % 4), validate=True)
    except (binascii.Error, ValueError) as exc:
        shown = text if len(text) <= 60 else text[:57] + "…"
        raise InvalidImage(
            f"{field} must be an http(s) URL, a data URI or base64, got {shown!r}.", field=field
        ) from exc
