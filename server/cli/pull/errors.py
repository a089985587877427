"""What `qwen-edit pull` says when it does not fetch something, and whether there is room for it."""

from pathlib import Path

from server.cli.console import shown_size
from server.cli.machine import free_disk


class PullRefused(Exception):
    """It is not fetched; the message says why, and what to do."""


def check_space(folder: Path, needed_bytes: int, what: str) -> None:
    """Raise PullRefused when the disk under `folder` has not enough room."""
    free = free_disk(folder)
    if needed_bytes > free:
        raise PullRefused(
            f"{what} needs {shown_size(needed_bytes)} more, and the disk of {folder} has "
            f"{shown_size(free)} free. Make room, or name another folder with --weights-dir."
        )
