"""Files of a repository on the hub, and what of them lies on this machine."""

import os
from pathlib import Path

import pytest
from huggingface_hub import constants

from server.hub_repository import HubFile, HubRepository, bytes_to_come, cached_snapshot
from tests.fake_hub import COMMIT, git_digest, write_cache

OLDER = "1" * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty Hugging Face cache."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(folder))
    return folder


def test_small_file_is_known_by_gits_hash_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"{}")

    assert HubFile("a.json", 2, git_digest(b"{}")).is_at(path)
    assert not HubFile("a.json", 2, git_digest(b"[]")).is_at(path)


def test_snapshot_is_that_of_the_revision_and_else_of_main(cache: Path) -> None:
    main = write_cache(cache, "owner/x", {"a": b"1"}, commit=OLDER)
    tagged = write_cache(cache, "owner/x", {"a": b"2"}, ref="v2")

    assert cached_snapshot("owner/x") == main
    assert cached_snapshot("owner/x", "v2") == tagged
    assert cached_snapshot("owner/x", COMMIT) == tagged
    assert cached_snapshot("owner/x", "v3") is None
    assert cached_snapshot("owner/x", "..") is None
    assert cached_snapshot("owner/y") is None


def test_snapshot_is_none_where_main_is_not_there_and_the_newest_where_nothing_is_named(
    cache: Path,
) -> None:
    write_cache(cache, "owner/tagged", {"a": b"1"}, ref="v2")
    older = write_cache(cache, "owner/bare", {"a": b"1"}, commit=OLDER, ref=None)
    newest = write_cache(cache, "owner/bare", {"a": b"2"}, ref=None)
    os.utime(older, (1, 1))

    assert cached_snapshot("owner/tagged") is None
    assert cached_snapshot("owner/bare") == newest


def test_room_is_needed_for_what_is_neither_a_part_nor_linked_from_the_cache(
    cache: Path, tmp_path: Path
) -> None:
    write_cache(cache, "owner/x", {"linked": bytes(500), "other": bytes(7)})
    linked, other, fresh = (HubFile(name, 500, name) for name in ("linked", "other", "fresh"))
    repository = HubRepository("owner/x", COMMIT, (linked, other, fresh))
    (tmp_path / fresh.part_name).write_bytes(bytes(200))

    assert bytes_to_come(repository, [linked], tmp_path) == 0
    assert bytes_to_come(repository, [fresh], tmp_path) == 300
    assert bytes_to_come(repository, [linked, other, fresh], tmp_path) == 800
