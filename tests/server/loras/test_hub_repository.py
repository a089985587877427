"""Files of hub repositories on this machine."""

import shutil
from pathlib import Path

import pytest
from huggingface_hub import constants

from server.loras.hub_repository import (
    HubError,
    HubFile,
    HubRepository,
    missing_bytes,
    read_repository,
)
from tests.fake_hub import COMMIT, git_digest, write_cache


def test_small_file_is_verified_by_its_git_hash(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"{}")

    assert HubFile("a.json", 2, git_digest(b"{}")).is_at(path)
    assert not HubFile("a.json", 2, git_digest(b"[]")).is_at(path)


async def test_cache_copied_without_its_links_is_listed_and_compared_by_size(
    hub_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the cache that follows links has no hashes in it."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    linked = write_cache(hub_cache, "owner/linked", {"a.json": b"{}"})
    shutil.copytree(linked, hub_cache / "models--owner--copied" / "snapshots" / COMMIT)

    [of_link] = (await read_repository("owner/linked")).files
    [of_copy] = (await read_repository("owner/copied")).files
    other = tmp_path / "other"
    other.write_bytes(b"[]")

    assert of_link.is_at(linked / "a.json")
    assert not of_link.is_at(other)
    assert of_copy.is_at(other)
    other.write_bytes(b"[1]")
    assert not of_copy.is_at(other)


async def test_uncached_repository_is_refused_offline(
    hub_cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)

    with pytest.raises(HubError, match=r"owner/x is not in the Hugging Face cache, and"):
        await read_repository("owner/x")


def test_space_is_needed_for_files_neither_received_nor_linked_from_the_cache(
    hub_cache: Path, tmp_path: Path
) -> None:
    write_cache(hub_cache, "owner/x", {"linked": bytes(500), "other": bytes(7)})
    linked, other, fresh = (HubFile(name, 500, name) for name in ("linked", "other", "fresh"))
    repository = HubRepository("owner/x", COMMIT, (linked, other, fresh))
    (tmp_path / fresh.partial_name).write_bytes(bytes(200))

    assert missing_bytes(repository, [linked], tmp_path) == 0
    assert missing_bytes(repository, [fresh], tmp_path) == 300
    assert missing_bytes(repository, [linked, other, fresh], tmp_path) == 800
