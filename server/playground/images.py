"""Images in the page's slots, stored where jobs and the history find them.

Each image becomes an upload, which is kept at least as long as jobs are. Jobs name it by its URL,
so that the history can show the original.
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
from server.media.decoder_pool import DecoderPool
from server.media.images import check_bytes
from server.media.inputs import is_url
from server.media.outputs import OutputStore
from server.media.served_folder import ServedFolder
from server.media.uploads import UploadStore
from server.net.fetch import Fetcher
from server.playground.examples import EXAMPLES
from server.playground.form import SlotImage

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")

# Names of images that are no file of the user: those from a clipboard, and the examples.
_NAMES_OF_NO_FILE = frozenset(("image.png", *(name for each in EXAMPLES for name in each.files)))
# Images whose upload is remembered. A forgotten image is stored once more.
MAX_REMEMBERED = 512
# Lifetime of files that only feed an open page; images in use are copied to the uploads.
CACHE_AGE_S = 86400

# A file in a slot, its size in bytes and its modification time in ns.
_Version = tuple[SlotImage, int, int]


@dataclass(frozen=True, slots=True)
class StoredImage:
    """The path of an image on this server (`/uploads/…`), and its origin.

    `source` is a URL, or the name of a file on the user's machine; None when the image exists on
    this server only.
    """

    route: str
    source: str | None


class ImageStore:
    """Stores images that were dropped, pasted or named by URL, and finds them again.

    All users of the page share it. Users of the same image do not learn each other's file names.
    """

    def __init__(
        self,
        uploads: UploadStore,
        outputs: OutputStore,
        fetcher: Fetcher,
        decoders: DecoderPool,
        folder: Path,
        *,
        fetch_timeout_s: float,
        keep_s: float,
    ) -> None:
        """`folder` receives the browsers' uploads and the images fetched for display."""
        self._uploads = uploads
        self._folders: Sequence[ServedFolder] = (outputs, uploads)
        self._fetcher = fetcher
        self._decoders = decoders
        self._folder = folder.resolve()
        self._fetch_timeout_s = fetch_timeout_s
        self._keep_s = keep_s
        # the page asks for its images at every keystroke: an unchanged file is not read again
        self._stored: OrderedDict[_Version, StoredImage] = OrderedDict()
        # routes by content hash, URLs by the unguessable name of the fetched file
        self._routes: OrderedDict[str, str] = OrderedDict()
        self._urls: OrderedDict[str, str] = OrderedDict()

    async def store(self, image: SlotImage, field: str, owner: str) -> StoredImage:
        """Check an image and store it as an upload of `owner`; the same content is stored once.

        Raises InvalidImage, PayloadTooLarge, StorageFull, and NotFound when its upload has expired.
        """
        version = await asyncio.to_thread(self._version, image, field)
        stored = self._stored.get(version)
        if stored is None or self.path(stored.route) is None:
            stored = await self._read_and_store(image, field, owner)
        _remember(self._stored, version, stored)
        return stored

    async def _read_and_store(self, image: SlotImage, field: str, owner: str) -> StoredImage:
        data = await asyncio.to_thread(self._read, image, field)
        digest = await asyncio.to_thread(_hash, data)
        own = await asyncio.to_thread(self._own_route, image.name, data)
        route = own or self._routes.get(digest)
        if route is None or self.path(route) is None:
            route = await self._upload(image.name, data, field, owner)
        _remember(self._routes, digest, route)
        is_nameless = own is not None or image.name in _NAMES_OF_NO_FILE
        source = self._urls.get(image.name, None if is_nameless else image.name)
        return StoredImage(route, source)

    async def fetch(self, url: str) -> SlotImage:
        """Fetch and check the image behind a URL, as a file for a slot.

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
        await self._decoders.check(data, "images")
        path = self._folder / "fetched" / secrets.token_hex(16)
        _remember(self._urls, path.name, url)
        await asyncio.to_thread(_write_and_sweep, path, data)
        return SlotImage(str(path), path.name)

    def path(self, url: str) -> Path | None:
        """The file behind one of this server's URLs, None when it has expired."""
        found = (folder.path_of_url(url) for folder in self._folders)
        return next(filter(None, found), None)

    def route(self, url: str) -> str | None:
        """The path of one of this server's URLs (`/uploads/…`), None when its file has expired."""
        for folder in self._folders:
            if path := folder.path_of_url(url):
                return folder.route(path.name)
        return None

    def _version(self, image: SlotImage, field: str) -> _Version:
        with _refuse_missing(field):
            path = Path(image.path)
            # the path comes from a browser
            if not path.resolve().is_relative_to(self._folder):
                raise OSError(f"{path} is not an upload")
            found = path.stat()
        check_bytes(found.st_size, MAX_IMAGE_BYTES, field)
        return image, found.st_size, found.st_mtime_ns

    def _read(self, image: SlotImage, field: str) -> bytes:
        with _refuse_missing(field):
            return Path(image.path).read_bytes()

    async def _upload(self, name: str, data: bytes, field: str, owner: str) -> str:
        await self._decoders.check(data, field)
        ticket = await self._uploads.create(name, len(data), None, owner)
        stored = await self._uploads.write(ticket, _once(data), keep_s=self._keep_s)
        return self._uploads.route(stored.name)

    def _own_route(self, name: str, data: bytes) -> str | None:
        """The route of the output or upload with this name and these very bytes."""
        for folder in self._folders:
            path = folder.path(name)
            if path is not None and path.read_bytes() == data:
                return folder.route(name)
        return None


@contextlib.contextmanager
def _refuse_missing(field: str) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError) as exc:
        raise InvalidImage(f"{field} is no longer available; add it again", field=field) from exc


def _hash(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _write_and_sweep(path: Path, data: bytes) -> None:
    """Write a file and delete the old ones beside it."""
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
