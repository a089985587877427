"""The folder where downloads wait until they are whole, one `pull` at a time."""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from server.cli.pull.errors import PullRefused

PARTS = ".parts"
LOCK = "lock"


@contextlib.contextmanager
def alone_in(parts: Path) -> Iterator[None]:
    """Only one `pull` writes into this folder of parts. Raises PullRefused for a second one."""
    parts.mkdir(parents=True, exist_ok=True)
    fd = os.open(parts / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another pull is fetching into {parts.parent}; wait for it."
            raise PullRefused(message) from None
        try:
            yield
        finally:
            leave(parts)
    finally:
        os.close(fd)


def leave(parts: Path) -> None:
    """Remove the folder of parts, unless another download's part waits in it to be gone on with."""
    (parts / LOCK).unlink(missing_ok=True)
    with contextlib.suppress(OSError):
        parts.rmdir()
