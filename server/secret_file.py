"""Secrets in the data folder: each is created once and kept."""

import os
from collections.abc import Callable
from pathlib import Path

from server import durable_files


def read_or_create(path: Path, create: Callable[[], bytes]) -> bytes:
    """Return the content of a secret file, which only its owner can read.

    A new one is on disk when this returns: a power cut after its first use must not change it.
    """
    if not path.exists():
        unfinished = path.with_name(path.name + ".part")
        unfinished.unlink(missing_ok=True)
        with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(create())
        durable_files.publish(unfinished, path)
    return path.read_bytes()
