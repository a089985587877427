"""The store of fetched LoRAs: found by reference, kept by content, evicted by last use."""

import hashlib
import os
from pathlib import Path

import pytest

from server.loras.store import LoraStore


@pytest.fixture
def store(tmp_path: Path) -> LoraStore:
    return LoraStore(tmp_path, max_bytes=25)


def add(store: LoraStore, reference: str, content: bytes, used_at: float | None = None) -> Path:
    part = store.part(reference)
    part.write_bytes(content)
    path = store.add(reference, part)
    if used_at is not None:
        os.utime(path, (used_at, used_at))
    return path


def test_added_file_is_named_by_its_hash_and_found_by_its_reference(store: LoraStore) -> None:
    path = add(store, "https://host/a", b"content")

    assert path.stem == hashlib.sha256(b"content").hexdigest() == store.sha256(path)
    assert store.find("https://host/a") == path
    assert store.find("https://host/b") is None
    assert not store.part("https://host/a").exists()


def test_find_marks_the_file_as_used_and_keeps_its_mtime(store: LoraStore) -> None:
    path = add(store, "a", b"content", used_at=1000.0)

    store.find("a")

    assert path.stat().st_mtime == 1000.0
    assert path.stat().st_atime > 1000.0


def test_reference_whose_file_is_gone_is_not_found(store: LoraStore) -> None:
    path = add(store, "a", b"content")
    path.unlink()

    assert (store.find("a"), store.sha256(path)) == (None, None)


def test_reference_stands_for_its_newest_content(store: LoraStore) -> None:
    add(store, "a", b"old")
    newest = add(store, "a", b"new")

    assert store.find("a") == newest


def test_file_elsewhere_has_no_hash_in_the_store(store: LoraStore, tmp_path: Path) -> None:
    other = tmp_path / "style.safetensors"
    other.write_bytes(b"content")

    assert store.sha256(other) is None


def test_eviction_removes_the_least_recently_used_unless_needed(store: LoraStore) -> None:
    old, middle, new = (add(store, name, name.encode() * 10, ord(name)) for name in "abc")

    removed = store.evict(lambda path: path == old)

    assert removed == [middle]
    assert (old.exists(), new.exists()) == (True, True)


def test_eviction_keeps_what_was_found_lately(store: LoraStore) -> None:
    old, middle, _ = (add(store, name, name.encode() * 10, ord(name)) for name in "abc")
    store.find("a")

    assert store.evict(lambda path: False) == [middle]
    assert old.exists()
