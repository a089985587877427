"""Which repository a model's folder was pulled from, noted in a hidden file in it."""

from pathlib import Path

from pipelines.files.model_index import INDEX_FILE
from server.cli.pull.errors import PullRefused

NOTE = ".repository"


def note_origin(folder: Path, repository: str) -> None:
    """Write down that what lies in `folder` comes, or is about to come, from this repository."""
    path = folder / NOTE
    if _read_origin(folder) != repository:
        path.write_text(repository + "\n")


def holds_another(folder: Path, repository: str, name_here: str | None) -> bool:
    """Whether a model lies in `folder` that is not known to come from this repository.

    Without a note, a folder that is named after the repository counts as its own.
    """
    origin = _read_origin(folder)
    is_own = origin == repository or (origin is None and name_here in (None, repository))
    return (folder / INDEX_FILE).is_file() and not is_own


def check_origin(folder: Path, repository: str, name_here: str | None) -> None:
    """Raise PullRefused when `folder` holds another model, which this one would replace."""
    if not holds_another(folder, repository, name_here):
        return
    origin = _read_origin(folder)
    found = f"was pulled from {origin}" if origin else f"is not known to be {repository}"
    raise PullRefused(
        f"{folder} holds a model already, which {found}. Give this one another name with --name, "
        f"or remove that folder first."
    )


def _read_origin(folder: Path) -> str | None:
    path = folder / NOTE
    return path.read_text().strip() if path.is_file() else None
