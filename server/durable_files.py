"""Files that survive a power cut, and the refusals of a disk as errors of their own.

A row of the database is synced when it is committed; a file that it names must be there by then.
"""

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from server.errors import StorageFull

# States of the disk, which end some day, not bugs.
REFUSALS = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.EACCES, errno.EPERM}
)


@contextlib.contextmanager
def disk_errors(what: str) -> Iterator[None]:
    """Raise StorageFull where the disk refuses `what`. No path: clients read the message."""
    try:
        yield
    except OSError as exc:
        if exc.errno not in REFUSALS:
            raise
        message = f"{what} cannot be stored: {os.strerror(exc.errno)}. Try again later."
        raise StorageFull(message) from exc


def write(path: Path, data: bytes) -> None:
    """Write a file, all or nothing, which is on disk when this returns."""
    part = path.with_name(path.name + ".part")
    try:
        part.write_bytes(data)
        publish(part, path)
    finally:
        part.unlink(missing_ok=True)


def publish(part: Path, path: Path) -> None:
    """Move a complete file to its place in the same folder tree; both are on disk then."""
    sync(part)
    os.replace(part, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Have the content of a file, or the names in a folder, written to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
