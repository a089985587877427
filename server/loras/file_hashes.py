"""SHA-256 of files, cached for as long as a file does not change."""

import hashlib
import os
from pathlib import Path

_Version = tuple[int, int, int, int]


class FileHashes:
    """Hashes files once per version: device, inode, size and mtime identify a version."""

    def __init__(self) -> None:
        self._known: dict[Path, tuple[_Version, str]] = {}

    def cached(self, path: Path) -> str | None:
        """The hash of the file as it is now, or None when it has yet to be read."""
        version, sha256 = self._known.get(path, (None, None))
        try:
            return sha256 if version == _version(path.stat()) else None
        except FileNotFoundError:
            return None

    def sha256(self, path: Path) -> str:
        """The hash of the file, which is read only if it has changed. Raises OSError."""
        if cached := self.cached(path):
            return cached
        with path.open("rb") as file:
            # before reading: a change while it is read makes the entry stale at once
            version = _version(os.fstat(file.fileno()))
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        self._known[path] = version, sha256
        return sha256


def _version(stat: os.stat_result) -> _Version:
    return stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
