"""Where the images of `qwen-edit edit` go: looked at before anything is asked of the server."""

import contextlib
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import PIL.Image
import typer
from rich.markup import escape

from server.cli.console import out, print_error
from server.cli.grid import GridCell
from server.cli.machine import is_writable
from server.errors import InvalidImage

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
SHEET_QUALITY = 92


def format_of(path: Path, option: str) -> str:
    """The format that the name asks for. Raises typer.BadParameter for any other name."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        known = ", ".join(FORMATS)
        raise typer.BadParameter(f"{path} must end in one of {known}", param_hint=option)
    return found


def check_place(path: Path, option: str) -> None:
    """Raise typer.BadParameter for an image that could not be written there."""
    format_of(path, option)
    folder = path.parent
    if not folder.is_dir():
        message = f"{path} lies in a folder that does not exist: make {folder} first"
        raise typer.BadParameter(message, param_hint=option)
    if not is_writable(folder):
        message = f"{path} lies in a folder that cannot be written: choose another than {folder}"
        raise typer.BadParameter(message, param_hint=option)


def check_apart(path: Path, option: str, taken: Iterable[tuple[Path, str]]) -> None:
    """Raise typer.BadParameter for a place that is one of `taken`, each with what it is."""
    for other, what in taken:
        if _is_same_file(path, other):
            message = (
                f"{path} is the same file as the {what} {other}, which would be overwritten: "
                f"choose another place"
            )
            raise typer.BadParameter(message, param_hint=option)


def make_folder(folder: Path, option: str) -> None:
    """Make the folder where it is missing. Raises typer.BadParameter when that cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        message = f"{folder} cannot be made: {exc.strerror}"
        raise typer.BadParameter(message, param_hint=option) from exc
    if not is_writable(folder):
        raise typer.BadParameter(f"{folder} cannot be written", param_hint=option)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """A fault in the block becomes a sentence that names the file, and exit code 1."""
    try:
        yield
    except (OSError, ValueError, InvalidImage) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        print_error(f"{path} cannot be saved: {reason}")
        raise typer.Exit(1) from exc


def save_image(data: bytes, path: Path) -> None:
    """Write an image that the server has made."""
    with saving(path):
        path.write_bytes(data)


def save_sheet(sheet: PIL.Image.Image, path: Path) -> None:
    """Write a sheet and say so."""
    with saving(path):
        sheet.save(path, FORMATS[path.suffix.lower()], quality=SHEET_QUALITY)
    out.print(escape(f"{path}  {sheet.width}×{sheet.height}"), soft_wrap=True, highlight=False)


def cell_path(folder: Path, number: int, cell: GridCell) -> Path:
    """The file of one image of a grid: its number, its labels and its format."""
    words = re.sub(r"[^\w.]+", "-", " ".join(cell.label))
    return folder / f"{number:02} {words}.{cell.options.output_format}".replace(" ", "-")


def _is_same_file(path: Path, other: Path) -> bool:
    """Whether what is written to one changes the other: symbolic and hard links count."""
    if path.exists() and other.exists():
        return path.samefile(other)
    # not Path.resolve, which raises for links in a circle
    return os.path.realpath(path) == os.path.realpath(other)
