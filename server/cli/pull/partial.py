"""The folder that holds downloads until they have been verified, used by one `pull` at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from server.cli.console import shown_size
from server.cli.machine import free_disk
from server.cli.pull.errors import PullError

PARTIAL = ".parts"
LOCK = "lock"


@contextlib.contextmanager
def exclusive(folder: Path) -> Iterator[None]:
    """Lock the folder, created if needed. Raises PullError while another `pull` holds the lock."""
    folder.mkdir(parents=True, exist_ok=True)
    fd = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another pull is fetching into {folder.parent}; wait for it."
            raise PullError(message) from None
        try:
            yield
        finally:
            (folder / LOCK).unlink(missing_ok=True)
            # stays while it holds a download to resume
            with contextlib.suppress(OSError):
                folder.rmdir()
    finally:
        os.close(fd)


def check_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise PullError when the disk of `folder` has too little space."""
    free = free_disk(folder)
    if needed_bytes > free:
        raise PullError(
            f"{what} needs {shown_size(needed_bytes)} more, and the disk of {folder} has "
            f"{shown_size(free)} free. Free some space, or name another folder with --weights-dir."
        )
