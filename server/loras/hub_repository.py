"""Repositories on the Hugging Face hub: listed by its library, files resumed and verified.

The library reads HF_ENDPOINT, HF_TOKEN, HF_HUB_OFFLINE and HF_HUB_CACHE. Its own downloads write to
unique temporary names, so that none resumes after a kill (huggingface_hub issue 4196).
"""

import asyncio
import contextlib
import functools
import hashlib
import os
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx2
import huggingface_hub
from huggingface_hub import constants, errors
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]

from pipelines.files.hub_cache import cached_snapshot
from server.net.daemon_thread import run_in_daemon_thread
from server.net.download import (
    BodyTooLarge,
    Download,
    OnSize,
    file_size,
    http_get,
    ignore_size,
    storage_message,
)

REQUEST_TIMEOUT_S = 30.0


class HubError(Exception):
    """The hub does not give what was asked for; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class HubFile:
    """A file of a repository.

    `digest` is its SHA-256 where it is large, else git's hash of it; something else in a cache that
    was copied without its links, where the size has to do.
    """

    name: str
    size_bytes: int
    digest: str

    @property
    def partial_name(self) -> str:
        """The name while it downloads: by content, so that no other version is resumed."""
        return f"{self.digest}-{self.name.replace('/', '--')}.part"

    def is_at(self, path: Path) -> bool:
        """Return whether the file at `path` has this content; reads all of it."""
        if not path.is_file() or path.stat().st_size != self.size_bytes:
            return False
        if not re.fullmatch(r"[0-9a-f]{40}|[0-9a-f]{64}", self.digest):
            return True
        with path.open("rb") as file:
            if len(self.digest) == 64:
                return hashlib.file_digest(file, "sha256").hexdigest() == self.digest
            blob = b"blob %d\0" % self.size_bytes + file.read()
        return hashlib.sha1(blob, usedforsecurity=False).hexdigest() == self.digest


@dataclass(frozen=True, slots=True)
class HubRepository:
    """A repository at one commit.

    `instance_prompt` is the prompt that triggers its LoRA, by its model card.
    """

    name: str
    commit: str
    files: tuple[HubFile, ...]
    instance_prompt: str | None = None

    def file(self, name: str) -> HubFile | None:
        """Return the file of this name."""
        return next((file for file in self.files if file.name == name), None)


async def read_repository(name: str, revision: str | None = None) -> HubRepository:
    """List the repository's files, in offline mode those in the Hugging Face cache.

    Raises HubError.
    """
    if constants.HF_HUB_OFFLINE:
        return _read_cached(name, revision)
    ask = functools.partial(
        huggingface_hub.HfApi().model_info,
        name,
        revision=revision,
        files_metadata=True,
        timeout=REQUEST_TIMEOUT_S,
    )
    with _hub_errors(name, name, revision):
        # a server that stops does not wait for the hub's answer
        info = await asyncio.wrap_future(run_in_daemon_thread(ask, "hub-list"))
    files = tuple(
        HubFile(
            file.rfilename,
            (file.lfs.size if file.lfs else file.size) or 0,
            (file.lfs.sha256 if file.lfs else file.blob_id) or "",
        )
        for file in info.siblings or ()
    )
    if any(not file.digest for file in files):
        raise HubError(
            f"{constants.ENDPOINT} lists {name} without hashes, so no download could be verified. "
            f"Name another hub with HF_ENDPOINT."
        )
    prompt = info.card_data.get("instance_prompt") if info.card_data else None
    return HubRepository(
        name,
        info.sha or constants.DEFAULT_REVISION,
        files,
        prompt if isinstance(prompt, str) else None,
    )


async def fetch_file(
    repository: HubRepository, file: HubFile, folder: Path, on_size: OnSize = ignore_size
) -> Path:
    """Return the verified file in `folder`: from the Hugging Face cache, else downloaded.

    What an earlier attempt left in `folder` is resumed; the caller moves the file to its place.
    Raises HubError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / file.partial_name
    with _hub_errors(f"{repository.name}/{file.name}", repository.name, repository.commit):
        found = cached(repository.name, file.name, repository.commit)
        if found is not None and await asyncio.to_thread(file.is_at, found):
            await asyncio.to_thread(link, found, partial)
        else:
            await _download(repository, file, partial, on_size)
    on_size(file.size_bytes)
    return partial


def link(source: Path, target: Path) -> None:
    """Put the file at `target` by a hard link, which takes no space, or by a copy."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk
        shutil.copyfile(source, target)


def missing_bytes(repository: HubRepository, files: Sequence[HubFile], folder: Path) -> int:
    """Return the space that these files still need on the disk of `folder`, which exists.

    What has been received needs no more, nor what can be linked from the Hugging Face cache.
    """
    device = folder.stat().st_dev
    missing = 0
    for file in files:
        found = cached(repository.name, file.name, repository.commit)
        is_linked = (
            found is not None
            and found.stat().st_dev == device
            and found.stat().st_size == file.size_bytes
        )
        if not is_linked:
            missing += max(0, file.size_bytes - file_size(folder / file.partial_name))
    return missing


def cached(repository: str, filename: str, revision: str | None) -> Path | None:
    """Return the file in the Hugging Face cache."""
    found = huggingface_hub.try_to_load_from_cache(repository, filename, revision=revision)
    return Path(found) if isinstance(found, str) else None


@contextlib.contextmanager
def _hub_errors(what: str, repository: str, revision: str | None) -> Iterator[None]:
    """Turn the library's errors, which have no common root, into HubError."""
    try:
        yield
    except HubError:
        raise
    except Exception as exc:
        raise HubError(_message(what, repository, revision, exc)) from exc


def _read_cached(name: str, revision: str | None) -> HubRepository:
    snapshot = cached_snapshot(name, revision)
    if snapshot is None:
        raise HubError(
            f"{name} is not in the Hugging Face cache, and "
            f"HF_HUB_OFFLINE forbids downloads. Set HF_HUB_OFFLINE=0, or copy the files from "
            f"another machine."
        )
    files = tuple(
        # a link leads to a file that is named after its hash
        HubFile(str(path.relative_to(snapshot)), path.stat().st_size, path.resolve().name)
        for path in snapshot.rglob("*")
        if path.is_file()
    )
    return HubRepository(name, snapshot.name, files)


async def _download(
    repository: HubRepository, file: HubFile, partial: Path, on_size: OnSize
) -> None:
    damaged = f"{repository.name}/{file.name} was damaged on the way. Try again."
    wanted = Download(
        huggingface_hub.hf_hub_url(repository.name, file.name, revision=repository.commit),
        partial,
        max_bytes=file.size_bytes,
        headers=build_hf_headers(),
        is_immutable=True,
        on_size=on_size,
    )
    if file_size(partial) > file.size_bytes:
        partial.unlink()
    try:
        if not partial.exists() or file_size(partial) < file.size_bytes:
            async with huggingface_hub.get_async_session() as client:
                await http_get(client, wanted)
    except BodyTooLarge as exc:
        raise HubError(damaged) from exc
    except httpx2.HTTPStatusError as exc:
        huggingface_hub.hf_raise_for_status(exc.response)
        raise
    if not await asyncio.to_thread(file.is_at, partial):
        partial.unlink()
        raise HubError(damaged)


def _message(what: str, repository: str, revision: str | None, exc: Exception) -> str:
    hub = constants.ENDPOINT
    match exc:
        case errors.OfflineModeIsEnabled():
            return f"{what} is not on this machine, and HF_HUB_OFFLINE forbids downloads."
        case errors.GatedRepoError():
            return (
                f"{repository} is gated: accept its terms on {hub}/{repository}, and set HF_TOKEN "
                f"to a token from {hub}/settings/tokens."
            )
        case errors.RepositoryNotFoundError() | errors.HFValidationError():
            return f"{hub} has no repository {repository}, or it is private: then set HF_TOKEN."
        case errors.RevisionNotFoundError():
            return f"{repository} has no revision {revision}."
        case errors.RemoteEntryNotFoundError():
            return f"{repository} has no file {what.removeprefix(repository + '/')}."
        case errors.HfHubHTTPError() if exc.response.status_code in (401, 403):
            return (
                f"{hub} refuses {what} ({exc.response.status_code}): set HF_TOKEN to a token that "
                f"may read it, or remove a wrong one."
            )
        case httpx2.TransportError():
            reason = str(exc) or type(exc).__name__
            return (
                f"{hub} cannot be reached ({reason}): check the network, or name a mirror with "
                f"HF_ENDPOINT. What has been received is kept: try again to resume."
            )
        case OSError() if exc.strerror and not isinstance(exc, httpx2.HTTPError):
            return storage_message(what, exc)
        case _:
            reason = str(exc).strip().split("\n")[0] or type(exc).__name__
            return f"{what} cannot be fetched from {hub}: {reason}"
