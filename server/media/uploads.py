"""Files that clients upload before a request, under unguessable names, for a limited time.

A ticket names a size and a type; its token allows writing the bytes, repeatedly, until the ticket
expires. Content is not validated here: a file that is no image fails when a job uses it.
"""

import asyncio
import re
import secrets
import sqlite3
from collections.abc import AsyncIterable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePath

from server import durable_files
from server.durable_files import disk_errors
from server.errors import InvalidRequest, NotFound, StorageFull
from server.limits import MAX_IMAGE_BYTES
from server.media.images import check_bytes
from server.media.served_folder import ServedFolder
from server.store import uploads
from server.store.database import Database
from server.store.uploads import Upload

ROUTE = "/uploads"
# The time that a client has to send the bytes.
TICKET_S = 3600.0
UNKNOWN_TYPE = "application/octet-stream"
_NAME = re.compile(r"[0-9a-f]{32}\.[a-z]{3,4}")
# By the extension of the client's file, which its URL keeps.
_IMAGE_TYPES = {
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "png": "image/png",
    "webp": "image/webp",
    "gif": "image/gif",
    "bmp": "image/bmp",
    "tif": "image/tiff",
    "tiff": "image/tiff",
    "avif": "image/avif",
}
_EXTENSIONS = {content_type: extension for extension, content_type in _IMAGE_TYPES.items()}


class UploadStore(ServedFolder):
    """The folder of uploads and its table."""

    def __init__(
        self,
        folder: Path,
        database: Database,
        *,
        keep_s: float,
        max_bytes_per_owner: int,
        clock: Callable[[], float],
    ) -> None:
        super().__init__(folder, ROUTE, _NAME)
        self._database = database
        self._keep_s = keep_s
        self._max_bytes_per_owner = max_bytes_per_owner
        self._clock = clock

    async def open(self) -> None:
        """Create the table and remove partial files of a killed server."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for unfinished in self._folder.glob("*.part"):
            unfinished.unlink(missing_ok=True)
        await self._database.persist(uploads.create_table)

    async def create(
        self, filename: str, size_bytes: int, content_type: str | None, owner: str
    ) -> Upload:
        """Create a ticket for a file of this size.

        Raises PayloadTooLarge, and StorageFull if the owner's uploads would exceed their limit.
        """
        check_bytes(size_bytes, MAX_IMAGE_BYTES, "size")
        now = self._clock()
        upload = Upload(
            token=secrets.token_hex(32),
            name=f"{secrets.token_hex(16)}.{_extension(filename, content_type)}",
            filename=filename,
            size_bytes=size_bytes,
            content_type=content_type or _type_of(filename) or UNKNOWN_TYPE,
            created_at=now,
            expires_at=now + TICKET_S,
            owner=owner,
        )
        taken = await self._database.write(partial(self._insert, upload=upload))
        if taken is not None:
            raise StorageFull(
                f"The uploads of this key take {taken / 2**30:.3f} GiB; with another "
                f"{size_bytes / 2**30:.3f} GiB they would exceed the "
                f"{self._max_bytes_per_owner / 2**30:g} GiB of QWEN_EDIT_MAX_UPLOAD_GB_PER_KEY. "
                f"They are deleted after {self._keep_s / 3600:g} hours."
            )
        return upload

    async def ticket(self, token: str) -> Upload:
        """Return the ticket with this token. Raises NotFound once it has expired."""
        upload = await self._database.read(partial(uploads.get, token=token))
        if upload is None or upload.created_at + TICKET_S <= self._clock():
            raise NotFound("This upload ticket is unknown or has expired; request another one.")
        return upload

    async def write(
        self, upload: Upload, chunks: AsyncIterable[bytes], *, keep_s: float = 0.0
    ) -> Upload:
        """Store the bytes of an upload, all or none. Raises InvalidRequest, NotFound.

        The file is kept for the operator's time for uploads, and at least for `keep_s`.
        """
        part = self._folder / f"{upload.name}.{secrets.token_hex(4)}.part"
        try:
            with disk_errors("The upload"):
                await self._write_part(part, upload.size_bytes, chunks)
                await asyncio.to_thread(durable_files.publish, part, self._folder / upload.name)
            now = self._clock()
            expires_at = now + max(self._keep_s, keep_s)
            # last: until then the row of the ticket is enough to remove the file
            mark = partial(uploads.mark_stored, token=upload.token, now=now, expires_at=expires_at)
            if not await self._database.write(mark):
                (self._folder / upload.name).unlink(missing_ok=True)
                raise NotFound("This upload ticket has expired; request another one.")
        finally:
            part.unlink(missing_ok=True)
        return replace(upload, stored=True, expires_at=expires_at)

    async def expire(self) -> int:
        """Remove expired files and tickets, and return their number."""
        over = await self._database.read(partial(uploads.expired, now=self._clock()))
        for upload in over:
            await asyncio.to_thread((self._folder / upload.name).unlink, missing_ok=True)
        await self._database.write(
            partial(uploads.delete, tokens=[upload.token for upload in over])
        )
        return len(over)

    def _insert(self, connection: sqlite3.Connection, upload: Upload) -> int | None:
        """Add the upload, or return the bytes of its owner's others if they leave no room."""
        taken = uploads.bytes_of(connection, upload.owner, now=upload.created_at)
        if taken + upload.size_bytes > self._max_bytes_per_owner:
            return taken
        uploads.insert(connection, upload)
        return None

    async def _write_part(self, part: Path, size_bytes: int, chunks: AsyncIterable[bytes]) -> None:
        received = 0
        with part.open("wb") as file:
            async for chunk in chunks:
                received += len(chunk)
                if received > size_bytes:
                    break
                await asyncio.to_thread(file.write, chunk)
        if received != size_bytes:
            came = "more" if received > size_bytes else f"{received}"
            raise InvalidRequest(
                f"the ticket is for a file of {size_bytes} bytes, but {came} were sent",
                field="size",
            )


def _type_of(filename: str) -> str | None:
    return _IMAGE_TYPES.get(PurePath(filename).suffix[1:].lower())


def _extension(filename: str, content_type: str | None) -> str:
    """The extension of the URL, by which clients recognize images; `png` if nothing is known."""
    suffix = PurePath(filename).suffix[1:].lower()
    if suffix in _IMAGE_TYPES:
        return suffix
    declared = (content_type or UNKNOWN_TYPE).partition(";")[0].strip().lower()
    if declared.startswith("image/") or (declared == UNKNOWN_TYPE and not suffix):
        return _EXTENSIONS.get(declared, "png")
    return "bin"
