"""The SQLite database: one writer thread, one reader thread, and a lock on the data folder."""

import asyncio
import contextlib
import fcntl
import os
import sqlite3
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

BUSY_TIMEOUT_S = 10.0


class DataFolderInUse(Exception):
    """Another server uses this data folder."""


class DataFolderLock:
    """The exclusive lock of a server on its data folder; the kernel releases it at exit."""

    def __init__(self, folder: Path) -> None:
        """Take the lock. Raises DataFolderInUse, naming the process that holds it."""
        folder.mkdir(parents=True, exist_ok=True)
        self._fd = os.open(folder / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            holder = os.read(self._fd, 100).decode(errors="replace") or "unknown"
            os.close(self._fd)
            raise DataFolderInUse(
                f"The data folder {folder} is in use by another server (process {holder}). Stop "
                f"it, or choose another folder with --data-dir."
            ) from exc
        os.truncate(self._fd, 0)
        os.write(self._fd, str(os.getpid()).encode())

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)


class Database:
    """Runs functions on connections, off the event loop; writes are serial transactions.

    Reads have their own connection and thread: in WAL mode they never wait for a write, whose
    fsync takes milliseconds.
    """

    def __init__(self, path: Path) -> None:
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="db-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="db-read")
        self._write_connection = connect(path)
        self._read_connection = connect(path)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction, which is on disk when this returns."""
        loop = asyncio.get_running_loop()
        # Shielded: when a client hangs up, its write is still either done or not begun.
        return await asyncio.shield(loop.run_in_executor(self._writer, self._transact, work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the read connection."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._reader, work, self._read_connection)

    def close(self) -> None:
        """Finish pending work and close the file."""
        for pool in (self._writer, self._reader):
            pool.shutdown(wait=True)
        for connection in (self._read_connection, self._write_connection):
            connection.close()

    def _transact(self, work: Callable[[sqlite3.Connection], T]) -> T:
        with transaction(self._write_connection) as connection:
            return work(connection)


def connect(path: Path) -> sqlite3.Connection:
    """Open a connection: WAL, every commit on disk, rows by name."""
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    # FULL: NORMAL could lose the latest accepted jobs in a power cut.
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    return connection


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A write transaction: committed at the end of the block, rolled back if it raises."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")
