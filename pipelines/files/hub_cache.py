"""Repositories in the Hugging Face cache of this machine. Reads folders, never the network.

https://huggingface.co/docs/huggingface_hub/guides/manage-cache describes its layout.
"""

from pathlib import Path

from huggingface_hub import constants


def cached_snapshot(name: str, revision: str | None = None) -> Path | None:
    """The repository's folder in the cache at a branch, tag or commit, by default `main`.

    A cache without refs, such as a copied one, has no `main`: there the newest snapshot counts.
    """
    refs = _folder(name) / "refs"
    snapshots = _snapshots(name)
    ref = refs / (revision or constants.DEFAULT_REVISION)
    if ref.is_file():
        commit = ref.read_text().strip()
        return next((path for path in snapshots if path.name == commit), None)
    if revision is not None:
        return next((path for path in snapshots if path.name == revision), None)
    if any(refs.glob("*")):
        return None
    return next(iter(snapshots), None)


def cached_snapshots(name: str) -> list[Path]:
    """All snapshots of the repository in the cache: `main` first, then the newest."""
    main = cached_snapshot(name)
    return sorted(_snapshots(name), key=lambda path: path != main)


def _snapshots(name: str) -> list[Path]:
    folder = _folder(name) / "snapshots"
    if not folder.is_dir():
        return []
    return sorted(folder.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)


def _folder(name: str) -> Path:
    return Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
