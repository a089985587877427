"""Watches the data folder while the server runs."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path

from server.errors import StorageFull
from server.readiness import Readiness
from server.store.opening import DATABASE_FILE, probe, probe_database

INTERVAL_S = 5.0
# A disk that takes longer for a small file is not ready.
SLOW_S = 5.0
# The sources of readiness reasons: what the storage refuses, and what it leaves unanswered.
SOURCE = "storage"
SLOW = "slow storage"


class DatabaseGone(Exception):
    """The database file was deleted or replaced while the server ran; changes would be lost."""


class StorageWatch:
    """Reports storage that takes nothing, and ends when the database file is gone.

    It writes a file and begins a transaction, because an idle server would notice nothing else.
    """

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
        probing = asyncio.create_task(asyncio.to_thread(self._probe))
        await asyncio.wait([probing], timeout=SLOW_S)
        if not probing.done():
            self._readiness.block(SLOW, f"The storage has not answered for {SLOW_S:g} s.")
        try:
            await probing
        except StorageFull as exc:
            self._readiness.block(SOURCE, str(exc))
        else:
            self._readiness.clear(SOURCE)
        self._readiness.clear(SLOW)

    def _probe(self) -> None:
        probe(self._folder)
        probe_database(self._folder / DATABASE_FILE)


def _inode(path: Path) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
