"""Sheets: pictures before and after an edit, or a grid of edits, with what made them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import PIL.Image
import PIL.ImageOps

from server.cli.canvas import (
    GAP,
    LABEL_SIZE,
    MARGIN,
    MUTED,
    ROW_LABEL_WIDTH,
    Caption,
    Paper,
    caption_height,
    label_height,
)
from server.media.images import to_rgb

# Where pictures of a comparison are drawn: as large as they are, but for these bounds.
PICTURE_HEIGHTS = (320, 640)
PICTURE_WIDTH = 960
MIN_COMPARISON_WIDTH = 720
THUMBNAIL = 150
CELL_SIDES = (160, 320)
# A grid's cells take at most so many pixels across and down, unless they are as small as may be: 64
# of those in one line, with labels and header, still end before the 16383 of WebP.
MAX_CELLS_SPAN = 8000
MIN_GRID_WIDTH = 880
# A caption that would have less room beside the inputs stands below them.
MIN_CAPTION_WIDTH = 480


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a grid with its labels; where all have the same, the row's is left out."""

    picture: PIL.Image.Image
    column: str
    row: str = ""


def open_picture(file: Path | BinaryIO) -> PIL.Image.Image:
    """A picture as the server shows it to the model: upright, in sRGB, on white.

    Raises OSError for what is no picture and InvalidPicture for a damaged one.
    """
    with PIL.Image.open(file) as picture:
        return to_rgb(picture, str(file) if isinstance(file, Path) else "the picture")


def draw_comparison(
    inputs: Sequence[PIL.Image.Image], output: PIL.Image.Image, caption: Caption
) -> PIL.Image.Image:
    """The inputs left, the output right, all of one height, with the caption below."""
    low, high = PICTURE_HEIGHTS
    height = min(max(output.height, low), high)
    pictures = [_fit(picture, PICTURE_WIDTH, height) for picture in (*inputs, output)]
    height = max(picture.height for picture in pictures)
    before = ["Before"] if len(inputs) == 1 else [f"Before {n + 1}" for n in range(len(inputs))]
    inner = max(_row_width(pictures), MIN_COMPARISON_WIDTH)
    top = MARGIN + label_height()
    paper = Paper(inner, top + height + GAP + caption_height(caption, inner) + MARGIN)
    left = MARGIN
    for picture, label in zip(pictures, [*before, "After"], strict=True):
        paper.text(label, left, MARGIN, LABEL_SIZE, MUTED)
        paper.paste(picture, left, top)
        left += picture.width + GAP
    paper.caption(caption, MARGIN, top + height + GAP, inner)
    return paper.image


def draw_grid(
    inputs: Sequence[PIL.Image.Image], rows: Sequence[Sequence[Cell]], caption: Caption
) -> PIL.Image.Image:
    """The inputs and the caption on top, below them the cells in rows, each under its label."""
    columns = max(len(row) for row in rows)
    side = _cell_side(rows, columns)
    cells = [[_fit(cell.picture, side, side) for cell in row] for row in rows]
    width = max(picture.width for row in cells for picture in row)
    height = max(picture.height for row in cells for picture in row)
    has_row_labels = any(cell.row for row in rows for cell in row)
    indent = ROW_LABEL_WIDTH if has_row_labels else 0
    header = _Header([_fit(picture, 2 * THUMBNAIL, THUMBNAIL) for picture in inputs], caption)
    inner = max(indent + columns * (width + GAP) - GAP, MIN_GRID_WIDTH, _row_width(header.inputs))
    line = MARGIN + header.height(inner) + GAP
    step = height + GAP + (0 if has_row_labels else label_height())
    first = line + GAP + (label_height() if has_row_labels else 0)
    paper = Paper(inner, first + step * len(rows) - GAP + MARGIN)
    header.draw(paper, inner)
    paper.rule(line)
    for index, row in enumerate(rows):
        top = first + index * step
        if has_row_labels:
            paper.row_label(row[0].row, top, height)
        for number, cell in enumerate(row):
            paper.cell(
                cells[index][number],
                cell.column if index == 0 or not has_row_labels else "",
                (MARGIN + indent + number * (width + GAP), top, width),
                is_label_inside=not has_row_labels,
            )
    return paper.image


@dataclass(frozen=True, slots=True)
class _Header:
    """The inputs of a grid in a row, and its caption beside them, or below where that is narrow."""

    inputs: Sequence[PIL.Image.Image]
    caption: Caption

    def height(self, inner: int) -> int:
        left, top = self._caption_place(inner)
        return max(THUMBNAIL, top + caption_height(self.caption, inner - left))

    def draw(self, paper: Paper, inner: int) -> None:
        at = MARGIN
        for picture in self.inputs:
            paper.paste(picture, at, MARGIN)
            at += picture.width + GAP
        left, top = self._caption_place(inner)
        paper.caption(self.caption, MARGIN + left, MARGIN + top, inner - left)

    def _caption_place(self, inner: int) -> tuple[int, int]:
        """Where the caption begins, from the header's upper left corner."""
        beside = _row_width(self.inputs) + GAP
        if inner - beside >= MIN_CAPTION_WIDTH:
            return beside, 0
        return 0, max(picture.height for picture in self.inputs) + GAP


def _cell_side(rows: Sequence[Sequence[Cell]], columns: int) -> int:
    """The longer side of each cell: as large as the pictures are, within the bounds."""
    low, high = CELL_SIDES
    largest = max(max(cell.picture.size) for row in rows for cell in row)
    return min(max(min(MAX_CELLS_SPAN // max(columns, len(rows)), largest), low), high)


def _row_width(pictures: Sequence[PIL.Image.Image]) -> int:
    return sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)


def _fit(picture: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    return PIL.ImageOps.contain(picture, (width, height), PIL.Image.Resampling.LANCZOS)
