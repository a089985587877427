"""The SQLite database: one writer thread, one reader thread, and a lock on the data folder."""

import asyncio
import contextlib
import fcntl
import logging
import os
import sqlite3
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeVar

from server.errors import StorageFull
from server.metrics import Metrics
from server.store.retry import until_stored

T = TypeVar("T")

logger = logging.getLogger(__name__)

BUSY_TIMEOUT_S = 10.0
# States of the disk or the file, not errors of a statement. The low byte of SQLite's codes.
STORAGE_ERRORS = frozenset(
    {
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_NOMEM,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
        sqlite3.SQLITE_NOTADB,
    }
)
DAMAGED = "The server's database is damaged; the next start says how to move it aside."
DAMAGES = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})


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
        with contextlib.suppress(OSError):  # a full disk: the lock holds without its note
            os.write(self._fd, str(os.getpid()).encode())

    def release(self) -> None:
        """Release the lock."""
        os.close(self._fd)


class Database:
    """Runs functions on connections, off the event loop; writes are serial transactions.

    Reads have their own connection and thread: in WAL mode they never wait for a write, whose
    fsync takes milliseconds.
    """

    def __init__(
        self,
        path: Path,
        *,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        metrics: Metrics | None = None,
    ) -> None:
        self._sleep = sleep
        self._failures = (metrics or Metrics()).storage_failures
        self._failure: str | None = None
        # a damaged page has been met; the next start says what to do
        self.is_damaged = False
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="db-write")
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="db-read")
        self._write_connection = connect(path)
        self._read_connection = connect(path)

    @property
    def failure(self) -> str | None:
        """The reason why a `persist` is still waiting for the disk, or why none works, or None."""
        return self._failure or (DAMAGED if self.is_damaged else None)

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in a transaction, which is on disk when this returns.

        Raises StorageFull while the disk is full, locked, read-only or broken; then nothing has
        changed.
        """
        loop = asyncio.get_running_loop()
        with self._refusals("written"):
            # Shielded: when a client hangs up, its write is still either done or not begun.
            result = await asyncio.shield(loop.run_in_executor(self._writer, self._transact, work))
        self._failure = None
        return result

    async def persist(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Like `write`, but retry until the disk takes it; meanwhile `failure` has the reason.

        `work` may run again after a commit whose success was not reported.
        """

        def note(exc: StorageFull, delay_s: float) -> None:
            self._failure = str(exc)
            logger.error("%s Next attempt in %g s.", exc, delay_s)

        return await until_stored(lambda: self.write(work), self._sleep, note)

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on the read connection.

        Raises StorageFull while the disk or the file is broken.
        """
        loop = asyncio.get_running_loop()
        with self._refusals("read"):
            return await loop.run_in_executor(self._reader, work, self._read_connection)

    def close(self) -> None:
        """Finish pending work and close the file."""
        for pool in (self._writer, self._reader):
            pool.shutdown(wait=True)
        for connection in (self._read_connection, self._write_connection):
            connection.close()

    @contextlib.contextmanager
    def _refusals(self, participle: str) -> Iterator[None]:
        """Raise StorageFull for what is a state of the disk or the file, and count it."""
        try:
            with refusals(participle):
                yield
        except StorageFull as exc:
            self._failures.inc()
            self.is_damaged = self.is_damaged or is_damage(exc)
            raise

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
def refusals(participle: str) -> Iterator[None]:
    """Raise StorageFull for what is a state of the disk or the file."""
    try:
        yield
    except sqlite3.DatabaseError as exc:
        if _code(exc) not in STORAGE_ERRORS:
            raise
        message = f"The server's database cannot be {participle}: {exc}. Try again later."
        raise StorageFull(message) from exc


def is_damage(exc: StorageFull) -> bool:
    """Return whether the file is damaged, which does not end by itself."""
    return _code(exc.__cause__) in DAMAGES


def _code(exc: BaseException | None) -> int:
    # an error of the module itself has no code
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF


@contextlib.contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """A write transaction: committed at the end of the block, rolled back if that fails."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        # SQLite itself has rolled back after some errors, such as a full disk
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
