"""Watches the data folder while the server runs."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from server.errors import StorageFull
from server.readiness import Readiness
from server.store.opening import DATABASE_FILE, probe

INTERVAL_S = 5.0
# A disk that takes longer for a small file is not ready.
SLOW_S = 5.0
# The source of readiness reasons.
SOURCE = "storage"


class DatabaseGone(Exception):
    """The database file was deleted or replaced while the server ran; changes would be lost."""


class StorageWatch:
    """Reports a disk that takes no files, and ends when the database file is gone."""

    def __init__(
        self,
        folder: Path,
        readiness: Readiness,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """The database in `folder` is open already."""
        self._folder = folder
        self._readiness = readiness
        self._sleep = sleep
        self._inode = _inode(folder / DATABASE_FILE)

    async def serve(self) -> None:
        """Watch until cancelled. Raises DatabaseGone."""
        while True:
            await self.check()
            await self._sleep(INTERVAL_S)

    async def check(self) -> None:
        """Check the file and the disk once. Raises DatabaseGone."""
        if _inode(self._folder / DATABASE_FILE) != self._inode:
            self._readiness.block(SOURCE, str(DatabaseGone.__doc__))
            raise DatabaseGone(DatabaseGone.__doc__)
        probing = asyncio.create_task(asyncio.to_thread(probe, self._folder))
        await asyncio.wait([probing], timeout=SLOW_S)
        if not probing.done():
            self._readiness.block(SOURCE, f"The disk takes longer than {SLOW_S:g} s for a file.")
        try:
            await probing
        except StorageFull as exc:
            self._readiness.block(SOURCE, str(exc))
        else:
            self._readiness.clear(SOURCE)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
