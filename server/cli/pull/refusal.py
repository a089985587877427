"""What `qwen-edit pull` says when it does not fetch something, and what it checks before."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from server.cli.console import shown_size

LOCK = "lock"


class PullRefused(Exception):
    """It is not fetched; the message says why, and what to do."""


def check_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise PullRefused when the disk under `folder` has not enough room."""
    existing = next(path for path in (folder, *folder.absolute().parents) if path.is_dir())
    free = shutil.disk_usage(existing).free
    if needed_bytes > free:
        raise PullRefused(
            f"{what} needs {shown_size(needed_bytes)} more, and the disk of {existing} has "
            f"{shown_size(free)} free. Make room, or name another folder with --weights-dir."
        )


@contextlib.contextmanager
def alone_in(parts: Path) -> Iterator[None]:
    """Only one `pull` writes into this folder of parts. Raises PullRefused for a second one."""
    parts.mkdir(parents=True, exist_ok=True)
    fd = os.open(parts / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            said = f"another pull is fetching into {parts.parent}; wait for it."
            raise PullRefused(said) from None
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
