"""The pictures in the page's slots, kept where jobs and the history find them again.

A picture that the page was given is an upload like any other: kept as long as the operator keeps
uploads. Jobs name it by its URL, so that the history can show what was edited.
"""

import asyncio
import hashlib
import secrets
import urllib.parse
from collections import OrderedDict
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from server import outputs as output_files
from server import uploads as upload_files
from server.errors import InvalidPicture
from server.fetch import Fetcher
from server.inputs import is_url
from server.outputs import OutputStore
from server.pictures import MAX_BYTES, check_bytes, to_rgb_png
from server.playground.form import Picture
from server.uploads import UploadStore

T = TypeVar("T")

# Pictures whose place is remembered; one that is forgotten is only stored once more.
MAX_REMEMBERED = 512


@dataclass(frozen=True, slots=True)
class KeptPicture:
    """Where a picture is served by this server (`/uploads/…`), and where it came from.

    `source` is a URL, or the name of a file on the machine of whoever uses the page; None when it
    is known here alone.
    """

    route: str
    source: str | None


class PictureShelf:
    """Takes what was dropped, pasted or named by URL; gives it to jobs and back to the page."""

    def __init__(
        self,
        uploads: UploadStore,
        outputs: OutputStore,
        fetcher: Fetcher,
        folder: Path,
        *,
        fetch_timeout_s: float,
    ) -> None:
        """`folder` is where fetched pictures wait for the page to show them."""
        self._uploads = uploads
        self._outputs = outputs
        self._fetcher = fetcher
        self._folder = folder
        self._fetch_timeout_s = fetch_timeout_s
        self._kept: OrderedDict[str, KeptPicture] = OrderedDict()
        self._sources: OrderedDict[str, str] = OrderedDict()

    async def keep(self, picture: Picture, field: str) -> KeptPicture:
        """Check a picture and store it, once however often it is used.

        Raises InvalidPicture, PayloadTooLarge, and NotFound where its upload is gone.
        """
        data = await asyncio.to_thread(_read, Path(picture.path), field)
        digest = hashlib.sha256(data).hexdigest()
        known = self._kept.get(digest)
        if known is not None and self.path(known.route) is not None:
            return known
        own = await asyncio.to_thread(self._own_route, picture.name, data)
        route = own or await self._store(picture.name, data, field)
        kept = KeptPicture(route, self._sources.get(digest, None if own else picture.name))
        _remember(self._kept, digest, kept)
        return kept

    async def fetch(self, url: str) -> Picture:
        """The picture behind a URL, checked, as a file for a slot.

        Raises InvalidPicture, FetchFailed, PayloadTooLarge.
        """
        url = url.strip()
        if not is_url(url):
            raise InvalidPicture(f"images must be an http(s) URL, got {url[:80]!r}", field="images")
        own = self.path(url)
        if own is not None:
            data = await asyncio.to_thread(own.read_bytes)
        else:
            self._fetcher.check_online(url, "images")
            data = await self._fetcher.read(
                url, max_bytes=MAX_BYTES, timeout_s=self._fetch_timeout_s, field="images"
            )
        await asyncio.to_thread(to_rgb_png, data, "images")
        _remember(self._sources, hashlib.sha256(data).hexdigest(), url)
        name = Path(urllib.parse.unquote(urllib.parse.urlsplit(url).path)).name or "picture"
        path = self._folder / secrets.token_hex(16) / name
        await asyncio.to_thread(_write, path, data)
        return Picture(str(path), name)

    def path(self, url: str) -> Path | None:
        """The file behind one of this server's own URLs, while it is kept."""
        return self._outputs.path_of_url(url) or self._uploads.path_of_url(url)

    async def _store(self, name: str, data: bytes, field: str) -> str:
        await asyncio.to_thread(to_rgb_png, data, field)
        ticket = await self._uploads.create(name, len(data), None)
        stored = await self._uploads.write(ticket, _once(data))
        return f"{upload_files.ROUTE}/{stored.name}"

    def _own_route(self, name: str, data: bytes) -> str | None:
        """The output or upload that this picture is, byte for byte: it is not stored again."""
        for store, route in (
            (self._outputs, output_files.ROUTE),
            (self._uploads, upload_files.ROUTE),
        ):
            path = store.path(name)
            if path is not None and path.read_bytes() == data:
                return f"{route}/{name}"
        return None


def _read(path: Path, field: str) -> bytes:
    try:
        check_bytes(path.stat().st_size, MAX_BYTES, field)
        return path.read_bytes()
    except OSError as exc:
        raise InvalidPicture(f"{field} is no longer here; add it again", field=field) from exc


def _write(path: Path, data: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(data)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _remember(memory: OrderedDict[str, T], key: str, value: T) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
