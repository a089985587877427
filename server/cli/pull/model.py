"""A model from the hub into `weights/models/`, visible to the server once it is complete.

The catalog knows a model by its `model_index.json`: that file is moved to its place last, and
removed first where the folder holds an incomplete model.
"""

import asyncio
import functools
import re
import tempfile
from collections.abc import Awaitable, Callable, Collection, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.markup import escape

from pipelines.api.errors import ModelUnusable
from pipelines.files.model_files import components_of, inspect_model, needed_files
from pipelines.files.model_index import INDEX_FILE, read_object
from server import durable_files
from server.cli.console import out, shown_size
from server.cli.pull.errors import PullError
from server.cli.pull.partial import PARTIAL, check_space, exclusive
from server.cli.pull.progress import byte_progress
from server.loras.hub_repository import HubFile, HubRepository, fetch_file, missing_bytes
from server.settings import Settings

T = TypeVar("T")

# Files at a time: one connection rarely fills the line.
CONNECTIONS = 4
# Models of this owner are folders of weights/models, all others of a folder named after the owner.
PUBLISHER = "Qwen"
# Names the repository that a model's folder was pulled from.
ORIGIN_FILE = ".repository"
_FOLDER_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")


async def pull_model(repository: HubRepository, name_here: str | None, settings: Settings) -> None:
    """Fetch the model, or what of it is missing. Raises PullError, HubError, ModelUnusable."""
    index = await _read_index(repository)
    components = components_of(index, repository.name)
    needed = needed_files((file.name for file in repository.files), components)
    files = [file for name in needed if (file := repository.file(name))]
    folder = model_folder(repository.name, name_here, settings)
    with exclusive(folder / PARTIAL):
        missing = await _find_missing(files, folder)
        if missing:
            _check_origin(folder, repository.name, name_here)
            needed_bytes = missing_bytes(repository, missing, folder / PARTIAL)
            check_space(folder, needed_bytes, repository.name)
        note_origin(folder, repository.name)
        if missing:
            # from here on the folder holds an incomplete model
            (folder / INDEX_FILE).unlink(missing_ok=True)
            index_file = files[-1]
            await _fetch(repository, dict.fromkeys([*missing, index_file]), folder)
            problems = inspect_model(folder, index).problems
            if problems:
                raise ModelUnusable(f"{repository.name} is not complete: {', '.join(problems)}.")
            _move(folder / PARTIAL / index_file.partial_name, folder / INDEX_FILE)
            # of files that the repository no longer has
            for partial in (folder / PARTIAL).glob("*.part"):
                partial.unlink()
    say_complete(folder, is_new=bool(missing))


def is_complete(folder: Path, repository: str, name_here: str | None) -> bool:
    """Return whether the folder holds all of the model, and not another one."""
    is_model = (folder / INDEX_FILE).is_file() and not inspect_model(folder).problems
    return is_model and not _holds_another(folder, repository, name_here)


def model_folder(repository: str, name_here: str | None, settings: Settings) -> Path:
    """Return the model's folder. Raises PullError for a name that is no folder's."""
    owner, _, repo = repository.partition("/")
    name = name_here or (repo if owner == PUBLISHER else repository)
    if not _FOLDER_NAME.fullmatch(name):
        raise PullError(
            f"--name {name!r}: a model's folder has letters, digits, '.', '_' and '-' in its name, "
            f"and at most one '/'."
        )
    return settings.weights_dir / "models" / name


def say_complete(folder: Path, *, is_new: bool) -> None:
    """Print where the model is, and the command that serves it."""
    size = shown_size(inspect_model(folder).size_bytes)
    state = f"complete, {size}" if is_new else f"exists already and is complete, {size}"
    name = folder.name if folder.parent.name == "models" else f"{folder.parent.name}/{folder.name}"
    for line in (f"{folder}  {state}", f"qwen-edit serve --model {name}"):
        out.print(escape(line), soft_wrap=True, highlight=False)


def read_origin(folder: Path) -> str | None:
    """Return the repository that the model in `folder` was pulled from, where that is noted."""
    path = folder / ORIGIN_FILE
    return path.read_text().strip() if path.is_file() else None


def note_origin(folder: Path, repository: str) -> None:
    """Note that the model in `folder` comes, or is about to come, from this repository."""
    if read_origin(folder) != repository:
        (folder / ORIGIN_FILE).write_text(repository + "\n")


def _holds_another(folder: Path, repository: str, name_here: str | None) -> bool:
    """Return whether `folder` has a model that is not known to come from this repository.

    Without a note, a folder that is named after the repository counts as its own.
    """
    origin = read_origin(folder)
    is_own = origin == repository or (origin is None and name_here in (None, repository))
    return (folder / INDEX_FILE).is_file() and not is_own


def _check_origin(folder: Path, repository: str, name_here: str | None) -> None:
    if not _holds_another(folder, repository, name_here):
        return
    origin = read_origin(folder)
    found = f"was pulled from {origin}" if origin else f"is not known to be {repository}"
    raise PullError(
        f"{folder} holds a model already, which {found}. Give this one another name with --name, "
        f"or remove that folder first."
    )


async def _read_index(repository: HubRepository) -> dict[str, Any]:
    file = repository.file(INDEX_FILE)
    assert file is not None
    with tempfile.TemporaryDirectory() as folder:
        return read_object(await fetch_file(repository, file, Path(folder)))


async def _find_missing(files: Sequence[HubFile], folder: Path) -> list[HubFile]:
    """Return the files that are absent or have other content, which takes a read of each."""
    present = [file for file in files if (folder / file.name).is_file()]
    total = sum(file.size_bytes for file in present)
    with byte_progress(f"checking {folder.name}", total) as update:

        async def is_good(file: HubFile) -> bool:
            found = await asyncio.to_thread(file.is_at, folder / file.name)
            update(file.name, file.size_bytes)
            return found

        are_good = await _for_each(is_good, present)
    good = {file for file, found in zip(present, are_good, strict=True) if found}
    return [file for file in files if file not in good]


async def _fetch(repository: HubRepository, missing: Collection[HubFile], folder: Path) -> None:
    """Fetch all files to their places, except for the index, which stays with the partial ones."""
    total = sum(file.size_bytes for file in missing)
    with byte_progress(repository.name, total) as update:

        async def fetch(file: HubFile) -> None:
            on_size = functools.partial(update, file.name)
            partial = await fetch_file(repository, file, folder / PARTIAL, on_size)
            if file.name != INDEX_FILE:
                _move(partial, folder / file.name)

        await _for_each(fetch, missing)


async def _for_each(work: Callable[[HubFile], Awaitable[T]], files: Collection[HubFile]) -> list[T]:
    """Run `work` on several files at a time. The first error cancels the others and is raised."""
    slots = asyncio.Semaphore(CONNECTIONS)

    async def limited(file: HubFile) -> T:
        async with slots:
            return await work(file)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(limited(file)) for file in files]
    except ExceptionGroup as failed:
        raise failed.exceptions[0] from failed
    return [task.result() for task in tasks]


def _move(partial: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    durable_files.publish(partial, path)
