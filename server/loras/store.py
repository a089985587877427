"""Fetched LoRA files, addressed by the hash of their content, bounded on disk.

    <folder>/files/<sha256>.safetensors   the files; the time of last use is the file's mtime
    <folder>/references/<sha256>          which file a reference stands for, by the reference's hash
    <folder>/parts/                       downloads under way

Two references with the same content share a file. Everything here blocks; call it in a thread.
"""

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

HASH_CHUNK_BYTES = 1024 * 1024


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
        """The file that was fetched for this reference, now marked as used."""
        note = self._references / _hash_text(reference)
        if not note.is_file():
            return None
        path = self._file(note.read_text())
        if not path.is_file():
            return None
        os.utime(path)
        return path

    def part(self, reference: str) -> Path:
        """Where a download for this reference is written; what lies there can be gone on with."""
        return self._parts / _hash_text(reference)

    def add(self, reference: str, part: Path) -> Path:
        """Move a finished download to its place, in one step that a kill cannot halve."""
        digest = _hash_file(part)
        path = self._file(digest)
        os.replace(part, path)
        os.utime(path)
        note = self._references / _hash_text(reference)
        unfinished = note.with_suffix(".part")
        unfinished.write_text(digest)
        os.replace(unfinished, note)
        return path

    def evict(self, is_needed: Callable[[Path], bool]) -> list[Path]:
        """Remove what was not used for longest until the bound is met; what is needed stays."""
        files = sorted(self._files.iterdir(), key=lambda path: path.stat().st_mtime)
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
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(HASH_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
