"""Output files of `qwen-edit edit`: checked before the request, never overwritten by default."""

import contextlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import typer
from rich.markup import escape

from server.cli.console import out
from server.cli.errors import CommandError
from server.cli.grid import GridCell
from server.cli.machine import is_writable
from server.errors import InvalidImage

FORMATS = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
SHEET_QUALITY = 92


@dataclass(frozen=True, slots=True)
class Places:
    """The files of one command. `force` allows to overwrite those that exist."""

    output: Path
    compare: Path | None
    cells: Path | None
    force: bool

    def check(self, images: Sequence[Path], grid: Sequence[GridCell]) -> None:
        """Check every place that will be written, and create the folder of the cells.

        An input, or another result of the same command, is never overwritten, not even with
        `force`. Raises typer.BadParameter.
        """
        taken = [(image, "image to edit") for image in images]
        self._check(self.output, "--output", taken)
        taken.append((self.output, "output"))
        if self.compare is not None:
            self._check(self.compare, "--compare", taken)
        if self.cells is not None:
            _make_folder(self.cells, "--keep-cells")
            for number, cell in enumerate(grid, start=1):
                check_apart(self.cell(number, cell), "--keep-cells", taken)

    def cell(self, number: int, cell: GridCell) -> Path:
        """The file of one image of a grid: its number, its label and its format."""
        words = re.sub(r"[^\w.]+", "-", " ".join(cell.label))
        assert self.cells is not None
        return self.cells / f"{number:02}-{words}.{cell.options.output_format}"

    def save(self, data: bytes, path: Path) -> Path:
        """Write a file and return its path: without `force` the first free name, as out-2.png.

        Raises CommandError.
        """
        with saving(path):
            if self.force:
                path.write_bytes(data)
                return path
            return _write_new(data, path)

    def save_sheet(self, sheet: PIL.Image.Image, path: Path) -> None:
        """Encode a contact sheet in the format of its name, write and report it."""
        file = io.BytesIO()
        with saving(path):
            sheet.save(file, FORMATS[path.suffix.lower()], quality=SHEET_QUALITY)
        report(self.save(file.getvalue(), path), path, f"{sheet.width}×{sheet.height}")

    def _check(self, path: Path, option: str, taken: Iterable[tuple[Path, str]]) -> None:
        format_of(path, option)
        check_apart(path, option, taken)
        folder = path.parent
        if not folder.is_dir():
            message = f"the folder of {path} does not exist: create {folder} first"
            raise typer.BadParameter(message, param_hint=option)
        if not is_writable(folder) or (self.force and path.exists() and not _is_writable(path)):
            message = f"{path} cannot be written: choose another place"
            raise typer.BadParameter(message, param_hint=option)


def format_of(path: Path, option: str) -> str:
    """The image format of a file name. Raises typer.BadParameter for an unknown suffix."""
    found = FORMATS.get(path.suffix.lower())
    if found is None:
        known = ", ".join(FORMATS)
        raise typer.BadParameter(f"{path} must end in one of {known}", param_hint=option)
    return found


def check_apart(path: Path, option: str, taken: Iterable[tuple[Path, str]]) -> None:
    """Raise typer.BadParameter when `path` is one of `taken`, each with its role."""
    for other, role in taken:
        if _is_same_file(path, other):
            message = (
                f"{path} is the same file as the {role} {other}, which would be overwritten: "
                f"choose another place"
            )
            raise typer.BadParameter(message, param_hint=option)


def report(saved: Path, wanted: Path, facts: str) -> None:
    """Print where an image was saved, and why under another name than the wanted one."""
    out.print(escape(f"{saved}  {facts}"), soft_wrap=True, highlight=False)
    if saved != wanted:
        note = f"{wanted} already exists; --force overwrites it"
        out.print(f"[dim]{escape(note)}[/dim]", soft_wrap=True, highlight=False)


@contextlib.contextmanager
def saving(path: Path) -> Iterator[None]:
    """Turn an error in the block into a CommandError that names the file."""
    try:
        yield
    except (OSError, ValueError, InvalidImage) as exc:
        reason = exc.strerror if isinstance(exc, OSError) and exc.strerror else exc
        raise CommandError(f"cannot save {path}: {reason}") from exc


def _write_new(data: bytes, path: Path) -> Path:
    free, number = path, 1
    while True:
        try:
            with free.open("xb") as file:
                file.write(data)
        except FileExistsError:
            number += 1
            free = path.with_stem(f"{path.stem}-{number}")
        else:
            return free


def _make_folder(folder: Path, option: str) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        message = f"cannot create {folder}: {exc.strerror}"
        raise typer.BadParameter(message, param_hint=option) from exc
    if not is_writable(folder):
        raise typer.BadParameter(f"{folder} cannot be written", param_hint=option)


def _is_writable(path: Path) -> bool:
    return os.access(path, os.W_OK)


def _is_same_file(path: Path, other: Path) -> bool:
    """Return whether writing one changes the other, through symbolic and hard links too."""
    if path.exists() and other.exists():
        return path.samefile(other)
    # not Path.resolve, which raises for links in a circle
    return os.path.realpath(path) == os.path.realpath(other)
