"""The check of the data folder before anything is written to it."""

import contextlib
import errno
import logging
import sqlite3
import time
import urllib.parse
from collections.abc import Callable
from pathlib import Path

from server import durable_files
from server.durable_files import disk_errors
from server.errors import StorageFull
from server.store.database import BUSY_TIMEOUT_S, is_damage, refusals
from server.store.retry import retry_delays_s

logger = logging.getLogger(__name__)

DATABASE_FILE = "jobs.sqlite3"
PROBE_FILE = "probe"
# Room for the pages of a few changes.
PROBE_BYTES = 64 * 1024
# How long another program may hold the database before it counts as locked.
PROBE_TIMEOUT_S = 4.0
# States of a folder that do not end by themselves.
READ_ONLY = frozenset({errno.EROFS, errno.EACCES, errno.EPERM})
# `user_version` of the files that this server understands; raise it with an incompatible change.
SCHEMA_VERSION = 0


class StorageUnusable(Exception):
    """The data folder needs the operator; the message says what to do."""


def wait_for_storage(folder: Path, *, sleep: Callable[[float], None] = time.sleep) -> None:
    """Return once the folder takes files and its database, if it has one, is sound.

    Waits while the disk is full or the database locked. Raises StorageUnusable; then nothing has
    been changed.
    """
    for delay_s in retry_delays_s():
        try:
            probe(folder)
            check_database(folder / DATABASE_FILE)
            return
        except StorageFull as exc:
            if isinstance(exc.__cause__, OSError) and exc.__cause__.errno in READ_ONLY:
                raise read_only(folder, exc.__cause__) from exc
            logger.error("The start waits: %s Next attempt in %g s.", exc, delay_s)
        sleep(delay_s)


def read_only(folder: Path, exc: OSError) -> StorageUnusable:
    """Return the error for a folder that this user cannot write."""
    return StorageUnusable(
        f"The data folder {folder} cannot be written: {exc.strerror}. Give this user the right to "
        f"write, or choose another folder with --data-dir."
    )


def probe(folder: Path) -> None:
    """Write, sync and remove a small file. Raises StorageFull."""
    with disk_errors("A file"):
        durable_files.write(folder / PROBE_FILE, bytes(PROBE_BYTES))
        (folder / PROBE_FILE).unlink()


def probe_database(path: Path) -> None:
    """Begin a write transaction and change nothing. Raises StorageFull."""
    with refusals("written"), contextlib.closing(_open(path, "rw")) as connection:
        connection.execute(f"PRAGMA busy_timeout = {PROBE_TIMEOUT_S * 1000:.0f}")
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def check_database(path: Path) -> None:
    """Read the whole database and change nothing. Raises StorageUnusable, StorageFull."""
    if not path.exists() or not path.stat().st_size:
        return
    try:
        with refusals("read"), contextlib.closing(_open(path, "ro")) as connection:
            [version] = connection.execute("PRAGMA user_version").fetchone()
            [found] = connection.execute("PRAGMA quick_check(1)").fetchone()
    except StorageFull as exc:
        if is_damage(exc):
            raise _unusable(path, f"is damaged: {exc.__cause__}") from exc
        raise
    if found != "ok":
        raise _unusable(path, f"is damaged: {' '.join(str(found).split())}")
    if version > SCHEMA_VERSION:
        raise _unusable(path, "was written by a newer version of qwen-edit-server")


def _open(path: Path, mode: str) -> sqlite3.Connection:
    address = f"file:{urllib.parse.quote(str(path))}?mode={mode}"
    return sqlite3.connect(address, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None)


def _unusable(path: Path, what: str) -> StorageUnusable:
    return StorageUnusable(
        f"The database {path} {what}. Nothing has been changed. Restore a backup, or move "
        f"{path.name}, {path.name}-wal and {path.name}-shm out of {path.parent} to start with an "
        f"empty one."
    )
