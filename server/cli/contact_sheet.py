"""Sheets: images before and after an edit, or a grid of edits, with what made them."""

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
    Canvas,
    Caption,
    caption_height,
    label_height,
)
from server.media.images import to_rgb

# Where images of a comparison are drawn: as large as they are, but for these bounds.
IMAGE_HEIGHTS = (320, 640)
IMAGE_WIDTH = 960
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
    """One image of a grid with its labels; where all have the same, the row's is left out."""

    image: PIL.Image.Image
    column: str
    row: str = ""


def open_image(file: Path | BinaryIO) -> PIL.Image.Image:
    """An image as the server shows it to the model: upright, in sRGB, on white.

    Raises OSError for what is no image and InvalidImage for a damaged one.
    """
    with PIL.Image.open(file) as image:
        return to_rgb(image, str(file) if isinstance(file, Path) else "the image")


def draw_comparison(
    inputs: Sequence[PIL.Image.Image], output: PIL.Image.Image, caption: Caption
) -> PIL.Image.Image:
    """The inputs left, the output right, all of one height, with the caption below."""
    low, high = IMAGE_HEIGHTS
    height = min(max(output.height, low), high)
    images = [_fit(image, IMAGE_WIDTH, height) for image in (*inputs, output)]
    height = max(image.height for image in images)
    before = ["Before"] if len(inputs) == 1 else [f"Before {n + 1}" for n in range(len(inputs))]
    inner = max(_row_width(images), MIN_COMPARISON_WIDTH)
    top = MARGIN + label_height()
    canvas = Canvas(inner, top + height + GAP + caption_height(caption, inner) + MARGIN)
    left = MARGIN
    for image, label in zip(images, [*before, "After"], strict=True):
        canvas.text(label, left, MARGIN, LABEL_SIZE, MUTED)
        canvas.paste(image, left, top)
        left += image.width + GAP
    canvas.caption(caption, MARGIN, top + height + GAP, inner)
    return canvas.image


def draw_grid(
    inputs: Sequence[PIL.Image.Image], rows: Sequence[Sequence[Cell]], caption: Caption
) -> PIL.Image.Image:
    """The inputs and the caption on top, below them the cells in rows, each under its label."""
    columns = max(len(row) for row in rows)
    side = _cell_side(rows, columns)
    cells = [[_fit(cell.image, side, side) for cell in row] for row in rows]
    width = max(image.width for row in cells for image in row)
    height = max(image.height for row in cells for image in row)
    has_row_labels = any(cell.row for row in rows for cell in row)
    indent = ROW_LABEL_WIDTH if has_row_labels else 0
    header = _Header([_fit(image, 2 * THUMBNAIL, THUMBNAIL) for image in inputs], caption)
    inner = max(indent + columns * (width + GAP) - GAP, MIN_GRID_WIDTH, _row_width(header.inputs))
    line = MARGIN + header.height(inner) + GAP
    step = height + GAP + (0 if has_row_labels else label_height())
    first = line + GAP + (label_height() if has_row_labels else 0)
    canvas = Canvas(inner, first + step * len(rows) - GAP + MARGIN)
    header.draw(canvas, inner)
    canvas.rule(line)
    for index, row in enumerate(rows):
        top = first + index * step
        if has_row_labels:
            canvas.row_label(row[0].row, top, height)
        for number, cell in enumerate(row):
            canvas.cell(
                cells[index][number],
                cell.column if index == 0 or not has_row_labels else "",
                (MARGIN + indent + number * (width + GAP), top, width),
                is_label_inside=not has_row_labels,
            )
    return canvas.image


@dataclass(frozen=True, slots=True)
class _Header:
    """The inputs of a grid in a row, and its caption beside them, or below where that is narrow."""

    inputs: Sequence[PIL.Image.Image]
    caption: Caption

    def height(self, inner: int) -> int:
        left, top = self._caption_place(inner)
        return max(THUMBNAIL, top + caption_height(self.caption, inner - left))

    def draw(self, canvas: Canvas, inner: int) -> None:
        at = MARGIN
        for image in self.inputs:
            canvas.paste(image, at, MARGIN)
            at += image.width + GAP
        left, top = self._caption_place(inner)
        canvas.caption(self.caption, MARGIN + left, MARGIN + top, inner - left)

    def _caption_place(self, inner: int) -> tuple[int, int]:
        """Where the caption begins, from the header's upper left corner."""
        beside = _row_width(self.inputs) + GAP
        if inner - beside >= MIN_CAPTION_WIDTH:
            return beside, 0
        return 0, max(image.height for image in self.inputs) + GAP


def _cell_side(rows: Sequence[Sequence[Cell]], columns: int) -> int:
    """The longer side of each cell: as large as the images are, within the bounds."""
    low, high = CELL_SIDES
    largest = max(max(cell.image.size) for row in rows for cell in row)
    return min(max(min(MAX_CELLS_SPAN // max(columns, len(rows)), largest), low), high)


def _row_width(images: Sequence[PIL.Image.Image]) -> int:
    return sum(image.width for image in images) + GAP * (len(images) - 1)


def _fit(image: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    return PIL.ImageOps.contain(image, (width, height), PIL.Image.Resampling.LANCZOS)
