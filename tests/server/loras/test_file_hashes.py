"""Hashes of files: read once per version."""

import hashlib
import os
from pathlib import Path

import pytest

from server.loras.file_hashes import FileHashes


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "style.safetensors"
    path.write_bytes(b"first")
    return path


def test_file_is_read_once_while_it_does_not_change(path: Path) -> None:
    hashes = FileHashes()
    assert hashes.cached(path) is None
    expected = hashlib.sha256(b"first").hexdigest()
    assert hashes.sha256(path) == expected
    # same version by its stat: a second read would see other bytes
    stat = path.stat()
    path.write_bytes(b"other")
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))

    assert (hashes.cached(path), hashes.sha256(path)) == (expected, expected)


@pytest.mark.parametrize("change", ["size", "mtime", "inode"])
def test_changed_file_is_read_again(path: Path, change: str) -> None:
    hashes = FileHashes()
    hashes.sha256(path)
    stat = path.stat()
    match change:
        case "size":
            path.write_bytes(b"second")
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
        case "mtime":
            path.write_bytes(b"fives")
            os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
        case "inode":
            beside = path.with_name("beside")
            beside.write_bytes(b"fives")
            os.utime(beside, ns=(stat.st_atime_ns, stat.st_mtime_ns))
            beside.rename(path)

    assert hashes.cached(path) is None
    assert hashes.sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_missing_file_has_no_cached_hash(path: Path) -> None:
    hashes = FileHashes()
    hashes.sha256(path)
    path.unlink()

    assert hashes.cached(path) is None
    with pytest.raises(FileNotFoundError):
        hashes.sha256(path)
