"""Files of a repository on the hub, and what of them lies on this machine."""

from pathlib import Path

from server.loras.hub_repository import HubFile, HubRepository, missing_bytes
from tests.fake_hub import COMMIT, git_digest, write_cache


def test_small_file_is_known_by_gits_hash_of_it(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_bytes(b"{}")

    assert HubFile("a.json", 2, git_digest(b"{}")).is_at(path)
    assert not HubFile("a.json", 2, git_digest(b"[]")).is_at(path)


def test_room_is_needed_for_what_is_neither_a_part_nor_linked_from_the_cache(
    hub_cache: Path, tmp_path: Path
) -> None:
    write_cache(hub_cache, "owner/x", {"linked": bytes(500), "other": bytes(7)})
    linked, other, fresh = (HubFile(name, 500, name) for name in ("linked", "other", "fresh"))
    repository = HubRepository("owner/x", COMMIT, (linked, other, fresh))
    (tmp_path / fresh.partial_name).write_bytes(bytes(200))

    assert missing_bytes(repository, [linked], tmp_path) == 0
    assert missing_bytes(repository, [fresh], tmp_path) == 300
    assert missing_bytes(repository, [linked, other, fresh], tmp_path) == 800
