"""Contact sheets: labeled images in rows, under a caption that says how they were made."""

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps

from server.media.rgb import to_rgb

BACKGROUND = "#faf9f7"
INK = "#1d1d1f"
MUTED = "#86827c"
LINE = "#e4e0da"
MARGIN = 56
GAP = 24
# The longer side of an image. 64 images of the lower bound in one line still fit into the 16383
# pixels of WebP, with labels and caption.
CELL_SIDES = (144, 640)
# The images of a row or column share so many pixels, unless the lower bound needs more.
CELLS_SPAN = 1920
MIN_WIDTH, MAX_TEXT_WIDTH = 720, 1400
PROMPT_SIZE, FACT_SIZE = 29, 19
MAX_LINES = 5
# Height of a line of text, as a share of its size.
LEADING = 1.35
# Pillow's own font has ASCII only; other text uses the first of these that is installed.
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf")

Image = PIL.Image.Image


@dataclass(frozen=True, slots=True)
class Caption:
    """The prompt, then facts as (name, value)."""

    prompt: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """An image and the lines of its label, each cut to the width of the cell."""

    image: Image
    label: tuple[str, ...]


def open_image(file: Path | BinaryIO) -> Image:
    """Open an image as the server shows it to the model: upright, in sRGB, on white.

    Raises OSError when the file is not an image and InvalidImage when it is damaged.
    """
    with PIL.Image.open(file) as image:
        return to_rgb(image, str(file) if isinstance(file, Path) else "the image")


def draw_comparison(inputs: Sequence[Image], output: Image, caption: Caption) -> Image:
    """Draw the inputs and the output side by side."""
    return draw_sheet([[*input_cells(inputs, "Before"), Cell(output, ("After",))]], caption)


def input_cells(inputs: Sequence[Image], label: str) -> list[Cell]:
    """Label the inputs, with a number where there are several."""
    numbers = range(1, len(inputs) + 1)
    labels = [label] if len(inputs) == 1 else [f"{label} {number}" for number in numbers]
    return [Cell(image, (text,)) for image, text in zip(inputs, labels, strict=True)]


def draw_sheet(rows: Sequence[Sequence[Cell]], caption: Caption) -> Image:
    """Draw the caption and below it the rows, each image under its label."""
    columns = max(map(len, rows))
    side = _side(rows, columns)
    fitted = [[_fit(cell.image, side) for cell in row] for row in rows]
    width = max(image.width for row in fitted for image in row)
    inner = max(columns * (width + GAP) - GAP, MIN_WIDTH)
    facts = "    ".join(f"{name} {value}" for name, value in caption.facts)
    text_width = min(inner, MAX_TEXT_WIDTH)
    blocks = [
        _text_block(caption.prompt, text_width, PROMPT_SIZE, INK, MAX_LINES),
        _text_block(facts, text_width, FACT_SIZE, MUTED, MAX_LINES),
        *(_row_block(row, images, width) for row, images in zip(rows, fitted, strict=True)),
    ]
    height = sum(block.height + GAP for block in blocks) - GAP
    sheet = _blank(inner + 2 * MARGIN, height + 2 * MARGIN)
    top = MARGIN
    for block in blocks:
        sheet.paste(block, (MARGIN, top))
        top += block.height + GAP
    return sheet


def _side(rows: Sequence[Sequence[Cell]], columns: int) -> int:
    """The longer side of every image: as large as the largest, within the bounds."""
    low, high = CELL_SIDES
    largest = max(max(cell.image.size) for row in rows for cell in row)
    return min(max(min(CELLS_SPAN // max(columns, len(rows)), largest), low), high)


def _fit(image: Image, side: int) -> Image:
    """Scale an image to the side, with a thin line around it."""
    fitted = PIL.ImageOps.contain(image, (side, side), PIL.Image.Resampling.LANCZOS)
    return PIL.ImageOps.expand(fitted, 1, LINE)


def _row_block(cells: Sequence[Cell], images: Sequence[Image], width: int) -> Image:
    """Draw images side by side, `width` pixels for each, under their labels."""
    label_height = max(len(cell.label) for cell in cells) * _line(FACT_SIZE)
    height = label_height + max(image.height for image in images)
    block = _blank(len(cells) * (width + GAP), height)
    for column, (cell, image) in enumerate(zip(cells, images, strict=True)):
        left = column * (width + GAP)
        for number, text in enumerate(cell.label):
            line = _text_block(text, width, FACT_SIZE, INK, 1)
            block.paste(line, (left, number * _line(FACT_SIZE)))
        block.paste(image, (left, label_height))
    return block


def _text_block(text: str, width: int, size: int, color: str, max_lines: int) -> Image:
    """Draw text in as many lines as it needs, up to `max_lines`."""
    lines = _wrap(text, width, size, max_lines)
    block = _blank(width, len(lines) * _line(size))
    draw = PIL.ImageDraw.Draw(block)
    for number, line in enumerate(lines):
        draw.text((0, number * _line(size)), line, fill=color, font=_font(line, size))
    return block


def _blank(width: int, height: int) -> Image:
    return PIL.Image.new("RGB", (width, height), BACKGROUND)


def _line(size: int) -> int:
    return round(size * LEADING)


def _wrap(text: str, width: float, size: int, max_lines: int) -> list[str]:
    """Break text into lines of at most `width` pixels; a cut ends in three dots."""
    font = _font(text, size)
    # no line of text is twice as dense as this
    most = int(width / font.getlength("n")) * 2
    text = text[: most * max_lines]
    for chars in range(min(len(text), most), len("..."), -1):
        lines = textwrap.wrap(text, chars, max_lines=max_lines, placeholder="...")
        if all(font.getlength(line) <= width for line in lines):
            return lines
    return [text] if text.strip() else []


def _font(text: str, size: int) -> PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont:
    if not text.isascii():
        for name in WIDE_FONTS:
            try:
                return PIL.ImageFont.truetype(name, size)
            except OSError:
                continue
    return PIL.ImageFont.load_default(size)
