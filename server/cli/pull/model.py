"""A model from the hub into `weights/models/`, seen by the server only once it is whole.

The catalog knows a model by its `model_index.json`: that file is moved to its place last, and taken
away first where the folder holds a half model.
"""

import os
import re
import tempfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from rich.markup import escape

from pipelines.api.errors import ModelUnusable
from pipelines.files.catalog import HubLora
from pipelines.files.hub_cache import cached_snapshot
from pipelines.files.model_files import components_of, inspect_model, needed_files
from pipelines.files.model_index import INDEX_FILE, read_object
from server.cli.console import err, out, shown_size
from server.cli.pull.errors import PullRefused, check_space
from server.cli.pull.origin import check_origin, holds_another, note_origin
from server.cli.pull.partial import PARTS, alone_in
from server.cli.pull.progress import ByteProgress, Stopped
from server.loras import hub_repository
from server.loras.hub_repository import HubFile, HubRepository
from server.settings import Settings

# Files at a time: one connection rarely fills the line.
CONNECTIONS = 4
# Models of this owner lie directly under weights/models, all others in a folder of their owner's.
PUBLISHER = "Qwen"
_FOLDER_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


def pull_model(repository: HubRepository, name_here: str | None, settings: Settings) -> None:
    """Bring the model here, or what of it is missing. Raises PullRefused, ModelUnusable."""
    index = _read_index(repository)
    files = [
        file
        for name in needed_files(
            (file.name for file in repository.files), components_of(index, repository.name)
        )
        if (file := repository.file(name))
    ]
    folder = model_folder(repository.name, name_here, settings)
    with alone_in(folder / PARTS):
        missing = _missing(files, folder)
        if missing:
            check_origin(folder, repository.name, name_here)
            needed = hub_repository.bytes_to_come(repository, missing, folder / PARTS)
            check_space(folder, needed, repository.name)
        note_origin(folder, repository.name)
        if missing:
            # from here on the folder holds a half model
            (folder / INDEX_FILE).unlink(missing_ok=True)
            index_file = files[-1]
            _fetch(repository, [*(f for f in missing if f is not index_file), index_file], folder)
            problems = inspect_model(folder, index).problems
            if problems:
                raise ModelUnusable(f"{repository.name} is not whole: {', '.join(problems)}.")
            _place(folder / PARTS / index_file.part_name, folder / INDEX_FILE)
            # parts of files that the repository does not have any more
            for part in (folder / PARTS).glob("*.part"):
                part.unlink()
    _say_whole(folder, is_new=bool(missing))


def take_cached(wanted: HubLora, name_here: str | None, settings: Settings) -> bool:
    """Put a whole snapshot of the Hugging Face cache to its place; False when there is none.

    The files are linked where the disk is the same, which costs no room, else copied.
    """
    folder = model_folder(wanted.repo, name_here, settings)
    snapshot = cached_snapshot(wanted.repo, wanted.revision)
    if snapshot is not None and not _is_whole(snapshot):
        snapshot = None
    if snapshot is not None:
        check_origin(folder, wanted.repo, name_here)
    if _is_whole(folder) and not holds_another(folder, wanted.repo, name_here):
        _say_whole(folder, is_new=False)
        return True
    if snapshot is None:
        return False
    present = [str(path.relative_to(snapshot)) for path in snapshot.rglob("*") if path.is_file()]
    index = read_object(snapshot / INDEX_FILE)
    with alone_in(folder / PARTS):
        note_origin(folder, wanted.repo)
        (folder / INDEX_FILE).unlink(missing_ok=True)
        for name in needed_files(present, components_of(index, str(snapshot))):
            hub_repository.link(snapshot / name, folder / PARTS / "file")
            _place(folder / PARTS / "file", folder / name)
    _say_whole(folder, is_new=True)
    return True


def model_folder(repository: str, name_here: str | None, settings: Settings) -> Path:
    """Where the model belongs. Raises PullRefused for a name that is no folder's."""
    owner, _, repo = repository.partition("/")
    name = name_here or (repo if owner == PUBLISHER else repository)
    if not _FOLDER_NAME.fullmatch(name):
        raise PullRefused(
            f"--name {name!r}: a model's folder has letters, digits, '.', '_' and '-' in its name, "
            f"and at most one '/'."
        )
    return settings.weights_dir / "models" / name


def _read_index(repository: HubRepository) -> dict[str, Any]:
    file = repository.file(INDEX_FILE)
    assert file is not None
    with tempfile.TemporaryDirectory() as folder:
        return read_object(hub_repository.download(repository, file, Path(folder)))


def _missing(files: Sequence[HubFile], folder: Path) -> list[HubFile]:
    """Those that are not there with the right content; looking costs a read of what is there."""
    there = sum(file.size_bytes for file in files if (folder / file.name).is_file())
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        with ByteProgress(f"checking {folder.name}", there, err) as progress:

            def is_missing(file: HubFile) -> bool:
                path = folder / file.name
                found = file.is_at(path)
                if path.is_file():
                    progress.add(file.size_bytes)
                return not found

            gone = list(pool.map(is_missing, files))
    finally:
        # Ctrl-C waits for no thread: the hash of a shard takes many seconds
        pool.shutdown(wait=False, cancel_futures=True)
    return [file for file, is_gone in zip(files, gone, strict=True) if is_gone]


def _fetch(repository: HubRepository, missing: Sequence[HubFile], folder: Path) -> None:
    """Bring all files to their places, but for the index, which stays a part."""
    total = sum(file.size_bytes for file in missing)
    pool = ThreadPoolExecutor(CONNECTIONS)
    try:
        with ByteProgress(repository.name, total, err) as progress:

            def bring(file: HubFile) -> None:
                try:
                    _bring(repository, file, folder, progress)
                except BaseException:
                    progress.stop()
                    raise

            futures = [pool.submit(bring, file) for file in missing]
            errors = [error for future in futures if (error := future.exception())]
    finally:
        # Ctrl-C waits for no thread: a part is good to go on with at any moment
        pool.shutdown(wait=False, cancel_futures=True)
    if errors:
        # of the file that failed, not of those that were stopped for it
        raise next((error for error in errors if not isinstance(error, Stopped)), errors[0])


def _bring(repository: HubRepository, file: HubFile, folder: Path, progress: ByteProgress) -> None:
    part = hub_repository.bring(repository, file, folder / PARTS, progress.add)
    if file.name != INDEX_FILE:
        _place(part, folder / file.name)


def _place(part: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(part, path)


def _is_whole(folder: Path) -> bool:
    return (folder / INDEX_FILE).is_file() and not inspect_model(folder).problems


def _say_whole(folder: Path, *, is_new: bool) -> None:
    size = inspect_model(folder).size_bytes
    word = "" if is_new else " was there already:"
    out.print(escape(f"{folder}{word} whole, {shown_size(size)}"), soft_wrap=True, highlight=False)
    name = folder.name if folder.parent.name == "models" else f"{folder.parent.name}/{folder.name}"
    out.print(escape(f"qwen-edit serve --model {name}"), soft_wrap=True, highlight=False)
