"""Sheets: pictures before and after an edit, or a grid of edits, with what made them."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont
import PIL.ImageOps

PAPER = "#faf9f7"
INK = "#1d1d1f"
MUTED = "#86827c"
LINE = "#e4e0da"
MARGIN = 56
GAP = 28
LABEL_SIZE = 19
FACT_SIZE = 21
PROMPT_SIZE = 29
# Between a picture's label and the picture.
LABEL_GAP = 7
# Height between lines of text, as a share of its size.
LEADING = 1.35
MAX_PROMPT_LINES = 5
# Where pictures of a comparison are drawn: as large as they are, but for these bounds.
PICTURE_HEIGHTS = (320, 640)
PICTURE_WIDTH = 960
THUMBNAIL = 150
CELL_SIDES = (160, 320)
# A sheet is at most so wide, but for the labels: WebP ends at 16383 pixels.
MAX_CELLS_WIDTH = 8000
ROW_LABEL_WIDTH = 240
# The built-in font has ASCII alone; other text is set in the first of these that is installed.
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf")

Font = PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Caption:
    """What the sheet says under or above the pictures: the prompt, then names with values."""

    prompt: str
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One picture of a grid with its labels; where all have the same, the row's is left out."""

    picture: PIL.Image.Image
    column: str
    row: str = ""


def open_picture(path_or_file: object) -> PIL.Image.Image:
    """A picture as people see it: turned as its camera was, on white where it is transparent."""
    with PIL.Image.open(path_or_file) as file:  # type: ignore[arg-type]
        picture = PIL.ImageOps.exif_transpose(file).convert("RGBA")
    flat = PIL.Image.new("RGB", picture.size, "white")
    flat.paste(picture, mask=picture.getchannel("A"))
    return flat


def draw_comparison(
    inputs: Sequence[PIL.Image.Image], output: PIL.Image.Image, caption: Caption
) -> PIL.Image.Image:
    """The inputs left, the output right, all of one height, with the caption below."""
    low, high = PICTURE_HEIGHTS
    height = min(max(output.height, low), high)
    pictures = [_fit(picture, PICTURE_WIDTH, height) for picture in (*inputs, output)]
    height = max(picture.height for picture in pictures)
    before = ["Before"] if len(inputs) == 1 else [f"Before {n + 1}" for n in range(len(inputs))]
    inner = sum(picture.width for picture in pictures) + GAP * (len(pictures) - 1)
    inner = max(inner, 720)
    top = MARGIN + _label_height()
    sheet = _Sheet(inner, top + height + GAP + _caption_height(caption, inner) + MARGIN)
    left = MARGIN
    for picture, label in zip(pictures, [*before, "After"], strict=True):
        sheet.text(label, left, MARGIN, LABEL_SIZE, MUTED)
        sheet.paste(picture, left, top)
        left += picture.width + GAP
    sheet.caption(caption, MARGIN, top + height + GAP, inner)
    return sheet.image


def draw_grid(
    inputs: Sequence[PIL.Image.Image], rows: Sequence[Sequence[Cell]], caption: Caption
) -> PIL.Image.Image:
    """The inputs and the caption on top, below them the cells in rows, each under its label."""
    columns = max(len(row) for row in rows)
    low, high = CELL_SIDES
    largest = max(max(cell.picture.size) for row in rows for cell in row)
    side = min(max(min(MAX_CELLS_WIDTH // columns, largest), low), high)
    cells = [[_fit(cell.picture, side, side) for cell in row] for row in rows]
    width = max(picture.width for row in cells for picture in row)
    height = max(picture.height for row in cells for picture in row)
    has_row_labels = any(cell.row for row in rows for cell in row)
    indent = ROW_LABEL_WIDTH if has_row_labels else 0
    inner = max(indent + columns * (width + GAP) - GAP, 880)
    small = [_fit(picture, 2 * THUMBNAIL, THUMBNAIL) for picture in inputs]
    beside = sum(picture.width + GAP for picture in small)
    header = max(THUMBNAIL, _caption_height(caption, inner - beside)) + GAP
    step = height + GAP + (0 if has_row_labels else _label_height())
    first = _label_height() if has_row_labels else 0
    sheet = _Sheet(inner, MARGIN + header + GAP + first + step * len(rows) - GAP + MARGIN)
    left = MARGIN
    for picture in small:
        sheet.paste(picture, left, MARGIN)
        left += picture.width + GAP
    sheet.caption(caption, left, MARGIN, inner - beside)
    sheet.rule(MARGIN + header, inner)
    top = MARGIN + header + GAP + first
    for index, row in enumerate(rows):
        if has_row_labels:
            sheet.row_label(row[0].row, top + index * step, height)
        for number, cell in enumerate(row):
            left = MARGIN + indent + number * (width + GAP)
            sheet.cell(
                cells[index][number],
                cell.column if index == 0 or not has_row_labels else "",
                (left, top + index * step, width),
                is_label_inside=not has_row_labels,
            )
    return sheet.image


class _Sheet:
    """Paper to draw on; `inner` is its width without the margins."""

    def __init__(self, inner: int, height: int) -> None:
        self.image = PIL.Image.new("RGB", (inner + 2 * MARGIN, int(height)), PAPER)
        self._draw = PIL.ImageDraw.Draw(self.image)

    def text(self, text: str, left: float, top: float, size: int, color: str) -> None:
        self._draw.text((left, top), text, fill=color, font=_font(text, size))

    def paste(self, picture: PIL.Image.Image, left: int, top: int) -> None:
        self.image.paste(picture, (left, top))
        edge = (left - 1, top - 1, left + picture.width, top + picture.height)
        self._draw.rectangle(edge, outline=LINE)

    def rule(self, top: int, inner: int) -> None:
        self._draw.line((MARGIN, top, MARGIN + inner, top), fill=LINE, width=1)

    def row_label(self, text: str, top: int, height: int) -> None:
        lines = _wrapped(text, ROW_LABEL_WIDTH - GAP, FACT_SIZE, 3)
        start = top + (height - len(lines) * _line(FACT_SIZE)) // 2
        for number, line in enumerate(lines):
            self.text(line, MARGIN, start + number * _line(FACT_SIZE), FACT_SIZE, INK)

    def cell(
        self,
        picture: PIL.Image.Image,
        label: str,
        place: tuple[int, int, int],
        *,
        is_label_inside: bool,
    ) -> None:
        """A picture at (left, top), with its label above it, which may have `width` pixels."""
        left, top, width = place
        [shown] = _wrapped(label, width, LABEL_SIZE, 1) or [""]
        if is_label_inside:
            self.text(shown, left, top, LABEL_SIZE, INK)
            self.paste(picture, left, top + _label_height())
        else:
            self.text(shown, left, top - _label_height(), LABEL_SIZE, INK)
            self.paste(picture, left, top)

    def caption(self, caption: Caption, left: int, top: int, width: int) -> None:
        for line in _wrapped(caption.prompt, width, PROMPT_SIZE, MAX_PROMPT_LINES):
            self.text(line, left, top, PROMPT_SIZE, INK)
            top += _line(PROMPT_SIZE)
        top += GAP // 2
        for row in _fact_rows(caption, width):
            at = float(left)
            for name, value, taken in row:
                self.text(name, at, top, LABEL_SIZE - 3, MUTED)
                self.text(value, at, top + _line(LABEL_SIZE - 3), FACT_SIZE, INK)
                at += taken + GAP * 1.5
            top += _fact_height()


def _fit(picture: PIL.Image.Image, width: int, height: int) -> PIL.Image.Image:
    return PIL.ImageOps.contain(picture, (width, height), PIL.Image.Resampling.LANCZOS)


def _font(text: str, size: int) -> Font:
    if not text.isascii():
        for name in WIDE_FONTS:
            try:
                return PIL.ImageFont.truetype(name, size)
            except OSError:
                continue
    return PIL.ImageFont.load_default(size)


def _line(size: int) -> int:
    return round(size * LEADING)


def _label_height() -> int:
    return _line(LABEL_SIZE) + LABEL_GAP


def _fact_height() -> int:
    return _line(LABEL_SIZE - 3) + _line(FACT_SIZE) + GAP // 2


def _caption_height(caption: Caption, width: int) -> int:
    lines = len(_wrapped(caption.prompt, width, PROMPT_SIZE, MAX_PROMPT_LINES))
    facts = len(_fact_rows(caption, width)) * _fact_height()
    return lines * _line(PROMPT_SIZE) + GAP // 2 + facts


def _fact_rows(caption: Caption, width: int) -> list[list[tuple[str, str, float]]]:
    """Names and values side by side as long as there is room, each with the room it takes."""
    rows: list[list[tuple[str, str, float]]] = [[]]
    used = 0.0
    for name, value in caption.facts:
        [shown] = _wrapped(value, width, FACT_SIZE, 1) or [""]
        taken = max(
            _font(name, LABEL_SIZE - 3).getlength(name), _font(shown, FACT_SIZE).getlength(shown)
        )
        if rows[-1] and used + taken > width:
            rows.append([])
            used = 0.0
        rows[-1].append((name, shown, taken))
        used += taken + GAP * 1.5
    return rows


def _wrapped(text: str, width: float, size: int, max_lines: int) -> list[str]:
    """The text in lines that fit; what is too much ends in three points."""
    font = _font(text, size)
    lines: list[str] = []
    for word in text.split():
        if len(lines) > max_lines:
            break
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width:
            lines[-1] = longer
        else:
            lines.append(word)
        # a word wider than the line, or a script without spaces
        while len(lines[-1]) > 1 and font.getlength(lines[-1]) > width and len(lines) <= max_lines:
            cut = _cut(lines[-1], font, width)
            lines[-1:] = [lines[-1][:cut], lines[-1][cut:]]
    if len(lines) > max_lines:
        last = lines[max_lines - 1]
        while last and font.getlength(f"{last}...") > width:
            last = last[:-1]
        lines = [*lines[: max_lines - 1], f"{last}..."]
    return lines


def _cut(text: str, font: Font, width: float) -> int:
    """How many characters of the text fit, at least one; behind a hyphen where there is one."""
    lengths = range(1, len(text))
    most = bisect_right(lengths, width, key=lambda count: font.getlength(text[:count])) or 1
    hyphen = max(text.rfind(mark, 0, most) for mark in "-_")
    return hyphen + 1 if hyphen > 0 else most
