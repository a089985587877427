"""Fetched LoRA files, addressed by content hash, with a limit on their total size.

    <folder>/files/<sha256>.safetensors   the files; atime is the time of last use
    <folder>/references/<sha256>          the file of a reference, by the reference's hash
    <folder>/parts/                       partial downloads

Two references with the same content share a file. Everything here blocks; call it in a thread.
"""

import hashlib
import os
import time
from collections.abc import Callable
from pathlib import Path

from server import durable_files


class LoraStore:
    """The folder of fetched LoRAs."""

    def __init__(self, folder: Path, *, max_bytes: int) -> None:
        self._files = folder / "files"
        self._references = folder / "references"
        self._parts = folder / "parts"
        self._max_bytes = max_bytes
        for path in (self._files, self._references, self._parts):
            path.mkdir(parents=True, exist_ok=True)

    def find(self, reference: str) -> Path | None:
        """The file that was fetched for this reference, now marked as used.

        Its mtime stays, by which a worker recognizes a file that it has already read.
        """
        note = self._references / _hash_text(reference)
        if not note.is_file():
            return None
        path = self._file(note.read_text())
        if not path.is_file():
            return None
        os.utime(path, ns=(time.time_ns(), path.stat().st_mtime_ns))
        return path

    def sha256(self, path: Path) -> str | None:
        """The hash of one of the store's files, which its name tells; None for any other path."""
        return path.stem if path.parent == self._files and path.is_file() else None

    def part(self, reference: str) -> Path:
        """The path of the partial download for this reference, which a later one resumes."""
        return self._parts / _hash_text(reference)

    def add(self, reference: str, part: Path) -> Path:
        """Move a finished download into the store, atomically; it survives a power cut."""
        digest = _hash_file(part)
        path = self._file(digest)
        durable_files.publish(part, path)
        os.utime(path)
        durable_files.write(self._references / _hash_text(reference), digest.encode())
        return path

    def evict(self, is_needed: Callable[[Path], bool]) -> list[Path]:
        """Remove the least recently used files beyond the limit, except those that are needed."""
        files = sorted(self._files.iterdir(), key=lambda path: path.stat().st_atime)
        excess = sum(path.stat().st_size for path in files) - self._max_bytes
        removed = []
        for path in files:
            if excess <= 0:
                break
            if not is_needed(path):
                excess -= path.stat().st_size
                path.unlink()
                removed.append(path)
        return removed

    def _file(self, digest: str) -> Path:
        return self._files / f"{digest}.safetensors"


def _hash_file(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
