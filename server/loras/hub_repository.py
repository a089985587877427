"""A repository on the Hugging Face hub: what it holds, and its files, each going on where it ended.

The hub's own library asks and downloads; it reads HF_ENDPOINT, HF_TOKEN and HF_HUB_OFFLINE itself.
Its `hf_hub_download` begins every file anew after a kill (huggingface_hub issue 4196), hence its
`http_get` here, which takes up a part. Everything blocks; call it in a thread.
"""

import contextlib
import errno
import hashlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

REQUEST_TIMEOUT_S = 30.0
HASH_CHUNK_BYTES = 4 * 1024 * 1024
DISK_FULL = (errno.ENOSPC, errno.EDQUOT)

# Told each number of bytes that came, or that lay there already, before they are written.
OnBytes = Callable[[int], None]


class DamagedDownload(Exception):
    """A file came with other content than the hub says, or the hub does not say it."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository. `digest` is its SHA-256 where it is large, else git's hash of it."""

    name: str
    size_bytes: int
    digest: str

    @property
    def part_name(self) -> str:
        """What its part is called: by content, so that another version is never gone on with."""
        return f"{self.digest}-{self.name.replace('/', '--')}.part"

    def is_at(self, path: Path) -> bool:
        """Whether the file at `path` is this one, by its content."""
        if not path.is_file() or path.stat().st_size != self.size_bytes:
            return False
        is_sha256 = len(self.digest) == 64
        found = hashlib.sha256() if is_sha256 else hashlib.sha1(usedforsecurity=False)
        if not is_sha256:
            found.update(f"blob {self.size_bytes}\0".encode())
        with path.open("rb") as file:
            while chunk := file.read(HASH_CHUNK_BYTES):
                found.update(chunk)
        return found.hexdigest() == self.digest


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository at one commit."""

    name: str
    commit: str
    files: tuple[HubFile, ...]

    def file(self, name: str) -> HubFile | None:
        """The file of this name."""
        return next((file for file in self.files if file.name == name), None)


def read_repository(name: str, revision: str | None = None) -> HubRepository:
    """What the repository holds now. Raises what the library raises; see `sentence`."""
    info = huggingface_hub.HfApi().model_info(
        name, revision=revision, files_metadata=True, timeout=REQUEST_TIMEOUT_S
    )
    files = tuple(
        HubFile(
            file.rfilename,
            (file.lfs.size if file.lfs else file.size) or 0,
            (file.lfs.sha256 if file.lfs else file.blob_id) or "",
        )
        for file in info.siblings or ()
    )
    if any(not file.digest for file in files):
        raise DamagedDownload(
            f"it does not say what {name} must hold. Name another hub with HF_ENDPOINT."
        )
    return HubRepository(name, info.sha or constants.DEFAULT_REVISION, files)


def download(
    repository: HubRepository, file: HubFile, parts: Path, on_bytes: OnBytes | None = None
) -> Path:
    """The file in the folder `parts`, whole and checked; the caller moves it to its place.

    What an earlier try left there is taken up. What `on_bytes` raises ends the download.
    Raises DamagedDownload, and what the library raises; see `sentence`.
    """
    parts.mkdir(parents=True, exist_ok=True)
    part = parts / file.part_name
    if part.exists() and part.stat().st_size > file.size_bytes:
        part.unlink()
    there = part.stat().st_size if part.exists() else 0
    if on_bytes is not None:
        on_bytes(there)
    with _disk_named(parts), part.open("ab") as target:
        http_get(
            huggingface_hub.hf_hub_url(repository.name, file.name, revision=repository.commit),
            target,
            resume_size=there,
            headers=build_hf_headers(),
            expected_size=file.size_bytes,
            displayed_filename=file.name,
            tqdm_class=partial(_Counter, on_bytes),  # type: ignore[arg-type]
        )
    if not file.is_at(part):
        part.unlink()
        raise DamagedDownload(f"{repository.name}/{file.name} came damaged. Fetch it again.")
    return part


def bring(
    repository: HubRepository, file: HubFile, parts: Path, on_bytes: OnBytes | None = None
) -> Path:
    """The file in `parts`, as of `download`, from the Hugging Face cache where it lies there."""
    found = cached(repository.name, file.name, repository.commit)
    if found is None or not file.is_at(found):
        return download(repository, file, parts, on_bytes)
    part = parts / file.part_name
    link(found, part)
    if on_bytes is not None:
        on_bytes(file.size_bytes)
    return part


def link(source: Path, target: Path) -> None:
    """Put the file to its place by a hard link, which costs no room, or by a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk
        with _disk_named(target.parent):
            shutil.copyfile(source, target)


def bytes_to_come(repository: HubRepository, files: Sequence[HubFile], parts: Path) -> int:
    """The room that these files still need on the disk of the folder `parts`, which exists.

    What is there as a part needs no more, nor what is linked from the Hugging Face cache.
    """
    needed = 0
    for file in files:
        part = parts / file.part_name
        there = part.stat().st_size if part.is_file() else 0
        found = cached(repository.name, file.name, repository.commit)
        if found is None or not _can_be_linked(found, file, parts):
            needed += max(0, file.size_bytes - there)
    return needed


def cached(repository: str, filename: str, revision: str | None) -> Path | None:
    """The file where it lies in the Hugging Face cache already."""
    found = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
    return Path(found) if isinstance(found, str) else None


def sentence(what: str, repository: str, revision: str | None, exc: Exception) -> str:
    """What went wrong with `what`, and what to do, from an error of the library."""
    match exc:
        case errors.OfflineModeIsEnabled():
            return f"{what} is not on this machine, and HF_HUB_OFFLINE forbids to fetch it."
        case errors.GatedRepoError():
            return (
                f"{repository} is gated: accept its terms on {constants.ENDPOINT}/{repository}, "
                f"and set HF_TOKEN to a token from {constants.ENDPOINT}/settings/tokens."
            )
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            return (
                f"{constants.ENDPOINT} has no repository {repository}, or it is private: then set "
                f"HF_TOKEN."
            )
        case errors.RevisionNotFoundError():
            return f"{repository} has no revision {revision}."
        case errors.RemoteEntryNotFoundError():
            return f"{repository} has no file {what.removeprefix(repository + '/')}."
        case errors.HfHubHTTPError() if exc.response.status_code in (401, 403):
            return (
                f"{constants.ENDPOINT} refuses {what} ({exc.response.status_code}): set HF_TOKEN "
                f"to a token that may read it, or take out a wrong one."
            )
        case httpx2.TransportError():
            return (
                f"{constants.ENDPOINT} cannot be reached ({exc}): check the network, or name a "
                f"mirror with HF_ENDPOINT."
            )
        case OSError() if exc.filename and exc.errno in DISK_FULL:
            return (
                f"{what} cannot be written: {exc.strerror}: {exc.filename}. What came is kept: "
                f"make room and run it again, and it goes on from there."
            )
        case OSError() if exc.filename:
            return f"{what} cannot be written: {exc.strerror}: {exc.filename}"
        case _:
            reason = str(exc).strip().split("\n")[0] or type(exc).__name__
            return f"{what} cannot be fetched from {constants.ENDPOINT}: {reason}"


@contextlib.contextmanager
def _disk_named(folder: Path) -> Iterator[None]:
    """Have the error of a full disk name the folder; a write knows of none, a copy its source."""
    try:
        yield
    except OSError as exc:
        if exc.errno in DISK_FULL:
            exc.filename, exc.filename2 = str(folder), None
        raise


def _can_be_linked(path: Path, file: HubFile, folder: Path) -> bool:
    """Whether `path` looks like the file, without reading it, and lies on the folder's disk."""
    found = path.stat()
    return found.st_size == file.size_bytes and found.st_dev == folder.stat().st_dev


class _Counter:
    """A progress bar as the library knows them, which only tells how many bytes came."""

    def __init__(self, on_bytes: OnBytes | None, **_: Any) -> None:
        self._on_bytes = on_bytes

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def update(self, count: int | float | None = 1) -> None:
        if self._on_bytes is not None:
            self._on_bytes(int(count or 0))
