"""The images in the page's slots, kept where jobs and the history find them again.

An image that the page was given is an upload, kept at least as long as jobs are. These name it by
its URL, so that the history can show what was edited.
"""

import asyncio
import contextlib
import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Hashable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from server.errors import InvalidImage
from server.limits import MAX_IMAGE_BYTES
from server.media.images import check_bytes, to_rgb_png
from server.media.inputs import is_url
from server.media.outputs import OutputStore
from server.media.served_folder import ServedFolder
from server.media.uploads import UploadStore
from server.net.fetch import Fetcher
from server.playground.examples import EXAMPLES
from server.playground.form import SlotImage

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Images from the clipboard, which browsers call so, and the examples: nobody has a file of them.
_NAMES_OF_NO_FILE = frozenset(("image.png", *(name for each in EXAMPLES for name in each.files)))
# Images whose place is remembered; one that is forgotten is only stored once more.
MAX_REMEMBERED = 512
# Files that only feed an open page; the server has its own copy of what is used.
CACHE_AGE_S = 86400

# A file in a slot as it is now: its size in bytes, and when it was written.
_Version = tuple[SlotImage, int, int]


@dataclass(frozen=True, slots=True)
class KeptImage:
    """Where an image is served by this server (`/uploads/…`), and where it came from.

    `source` is a URL, or the name of a file on the machine of whoever uses the page; None when it
    is known here alone.
    """

    route: str
    source: str | None


class ImageShelf:
    """Takes what was dropped, pasted or named by URL; gives it to jobs and back to the page.

    All who use the page share it: of an image that another has, too, nobody learns the name.
    """

    def __init__(
        self,
        uploads: UploadStore,
        outputs: OutputStore,
        fetcher: Fetcher,
        folder: Path,
        *,
        fetch_timeout_s: float,
        keep_s: float,
    ) -> None:
        """`folder` is where browsers' uploads come, and fetched images wait to be shown."""
        self._uploads = uploads
        self._stores: Sequence[ServedFolder] = (outputs, uploads)
        self._fetcher = fetcher
        self._folder = folder.resolve()
        self._fetch_timeout_s = fetch_timeout_s
        self._keep_s = keep_s
        # the page asks for its images with each letter that is typed: unread, while unchanged
        self._kept: OrderedDict[_Version, KeptImage] = OrderedDict()
        # routes by the hash of the content, URLs by the unguessable name that a fetched file has
        self._routes: OrderedDict[str, str] = OrderedDict()
        self._urls: OrderedDict[str, str] = OrderedDict()

    async def keep(self, image: SlotImage, field: str) -> KeptImage:
        """Check an image and store it, once however often it is used.

        Raises InvalidImage, PayloadTooLarge, and NotFound where its upload is gone.
        """
        version = await asyncio.to_thread(self._version, image, field)
        kept = self._kept.get(version)
        if kept is None or self.path(kept.route) is None:
            kept = await self._keep(image, field)
        _remember(self._kept, version, kept)
        return kept

    async def _keep(self, image: SlotImage, field: str) -> KeptImage:
        data = await asyncio.to_thread(self._read, image, field)
        digest = await asyncio.to_thread(_hash, data)
        own = await asyncio.to_thread(self._own_route, image.name, data)
        route = own or self._routes.get(digest)
        if route is None or self.path(route) is None:
            route = await self._store(image.name, data, field)
        _remember(self._routes, digest, route)
        is_nameless = own is not None or image.name in _NAMES_OF_NO_FILE
        source = self._urls.get(image.name, None if is_nameless else image.name)
        return KeptImage(route, source)

    async def fetch(self, url: str) -> SlotImage:
        """The image behind a URL, checked, as a file for a slot.

        Raises InvalidImage, FetchFailed, PayloadTooLarge.
        """
        url = url.strip()
        if not is_url(url):
            raise InvalidImage(f"images must be an http(s) URL, got {url[:80]!r}", field="images")
        own = self.path(url)
        if own is not None:
            data = await asyncio.to_thread(own.read_bytes)
        else:
            self._fetcher.check_online(url, "images")
            data = await self._fetcher.read(
                url, max_bytes=MAX_IMAGE_BYTES, timeout_s=self._fetch_timeout_s, field="images"
            )
        await asyncio.to_thread(to_rgb_png, data, "images")
        path = self._folder / "fetched" / secrets.token_hex(16)
        _remember(self._urls, path.name, url)
        await asyncio.to_thread(_write_and_sweep, path, data)
        return SlotImage(str(path), path.name)

    def path(self, url: str) -> Path | None:
        """The file behind one of this server's own URLs, while it is kept."""
        found = (store.path_of_url(url) for store in self._stores)
        return next(filter(None, found), None)

    def route(self, url: str) -> str | None:
        """Where on this server that file is (`/uploads/…`)."""
        for store in self._stores:
            if path := store.path_of_url(url):
                return store.route(path.name)
        return None

    def _version(self, image: SlotImage, field: str) -> _Version:
        with _named(field):
            path = Path(image.path)
            # a browser names the file
            if not path.resolve().is_relative_to(self._folder):
                raise OSError(f"{path} is no upload")
            found = path.stat()
        check_bytes(found.st_size, MAX_IMAGE_BYTES, field)
        return image, found.st_size, found.st_mtime_ns

    def _read(self, image: SlotImage, field: str) -> bytes:
        with _named(field):
            return Path(image.path).read_bytes()

    async def _store(self, name: str, data: bytes, field: str) -> str:
        await asyncio.to_thread(to_rgb_png, data, field)
        ticket = await self._uploads.create(name, len(data), None)
        stored = await self._uploads.write(ticket, _once(data), keep_s=self._keep_s)
        return self._uploads.route(stored.name)

    def _own_route(self, name: str, data: bytes) -> str | None:
        """The output or upload that this image is, byte for byte: it is not stored again."""
        for store in self._stores:
            path = store.path(name)
            if path is not None and path.read_bytes() == data:
                return store.route(name)
        return None


@contextlib.contextmanager
def _named(field: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        raise InvalidImage(f"{field} is no longer here; add it again", field=field) from exc


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_and_sweep(path: Path, data: bytes) -> None:
    """Write a file beside others, of which the old ones go."""
    path.parent.mkdir(parents=True, exist_ok=True)
    for other in path.parent.iterdir():
        if other.stat().st_mtime < time.time() - CACHE_AGE_S:
            other.unlink(missing_ok=True)
    path.write_bytes(data)


async def _once(data: bytes) -> AsyncIterator[bytes]:
    yield data


def _remember(memory: OrderedDict[K, V], key: K, value: V) -> None:
    memory[key] = value
    memory.move_to_end(key)
    while len(memory) > MAX_REMEMBERED:
        memory.popitem(last=False)
