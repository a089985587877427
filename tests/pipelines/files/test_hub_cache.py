"""Snapshots of repositories in the Hugging Face cache."""

import os
from pathlib import Path

from pipelines.files.hub_cache import cached_snapshot
from tests.fake_hub import COMMIT, OLDER, write_cache


def test_snapshot_follows_the_revision_or_else_main(hub_cache: Path) -> None:
    main = write_cache(hub_cache, "owner/x", {"a": b"1"}, commit=OLDER)
    tagged = write_cache(hub_cache, "owner/x", {"a": b"2"}, ref="v2")

    assert cached_snapshot("owner/x") == main
    assert cached_snapshot("owner/x", "v2") == tagged
    assert cached_snapshot("owner/x", COMMIT) == tagged
    assert cached_snapshot("owner/x", "v3") is None
    assert cached_snapshot("owner/x", "..") is None
    assert cached_snapshot("owner/y") is None


def test_snapshot_without_main_is_none_or_the_newest_without_any_ref(
    hub_cache: Path,
) -> None:
    write_cache(hub_cache, "owner/tagged", {"a": b"1"}, ref="v2")
    older = write_cache(hub_cache, "owner/bare", {"a": b"1"}, commit=OLDER, ref=None)
    newest = write_cache(hub_cache, "owner/bare", {"a": b"2"}, ref=None)
    os.utime(older, (1, 1))

    assert cached_snapshot("owner/tagged") is None
    assert cached_snapshot("owner/bare") == newest
