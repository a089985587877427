"""Paper to draw on: images with their labels, and a caption of what made them."""

from bisect import bisect_right
from dataclasses import dataclass

import PIL.Image
import PIL.ImageDraw
import PIL.ImageFont

BACKGROUND = "#faf9f7"
INK = "#1d1d1f"
MUTED = "#86827c"
LINE = "#e4e0da"
MARGIN = 56
GAP = 28
LABEL_SIZE = 19
FACT_SIZE = 21
PROMPT_SIZE = 29
# Between an image's label and the image.
LABEL_GAP = 7
# Height between lines of text, as a share of its size.
LEADING = 1.35
MAX_PROMPT_LINES = 5
ROW_LABEL_WIDTH = 240
# The built-in font has ASCII alone; other text is set in the first of these that is installed.
WIDE_FONTS = ("NotoSansCJK-Regular.ttc", "NotoSans-Regular.ttf", "DejaVuSans.ttf", "Arial.ttf")

Font = PIL.ImageFont.FreeTypeFont | PIL.ImageFont.ImageFont


@dataclass(frozen=True, slots=True)
class Caption:
    """What the sheet says under or above the images: the prompt, then names with values."""

    prompt: str
    facts: tuple[tuple[str, str], ...]


class Canvas:
    """Paper to draw on; `inner` is its width without the margins."""

    def __init__(self, inner: int, height: int) -> None:
        self.image = PIL.Image.new("RGB", (inner + 2 * MARGIN, height), BACKGROUND)
        self._draw = PIL.ImageDraw.Draw(self.image)

    def text(self, text: str, left: float, top: float, size: int, color: str) -> None:
        """One line of text."""
        self._draw.text((left, top), text, fill=color, font=_font(text, size))

    def paste(self, image: PIL.Image.Image, left: int, top: int) -> None:
        """An image with a thin line around it."""
        self.image.paste(image, (left, top))
        edge = (left - 1, top - 1, left + image.width, top + image.height)
        self._draw.rectangle(edge, outline=LINE)

    def rule(self, top: int) -> None:
        """A line from margin to margin."""
        self._draw.line((MARGIN, top, self.image.width - MARGIN, top), fill=LINE, width=1)

    def row_label(self, text: str, top: int, height: int) -> None:
        """What a row has in common, at the left of its images, which have `height` pixels."""
        lines = _wrapped(text, ROW_LABEL_WIDTH - GAP, FACT_SIZE, 3)
        start = top + (height - len(lines) * _line(FACT_SIZE)) // 2
        for number, line in enumerate(lines):
            self.text(line, MARGIN, start + number * _line(FACT_SIZE), FACT_SIZE, INK)

    def cell(
        self,
        image: PIL.Image.Image,
        label: str,
        place: tuple[int, int, int],
        *,
        is_label_inside: bool,
    ) -> None:
        """An image at (left, top), with its label above it, which may have `width` pixels."""
        left, top, width = place
        [shown] = _wrapped(label, width, LABEL_SIZE, 1) or [""]
        if is_label_inside:
            self.text(shown, left, top, LABEL_SIZE, INK)
            self.paste(image, left, top + label_height())
        else:
            self.text(shown, left, top - label_height(), LABEL_SIZE, INK)
            self.paste(image, left, top)

    def caption(self, caption: Caption, left: int, top: int, width: int) -> None:
        """The prompt in large letters, below it the facts; `caption_height` is its height."""
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


def label_height() -> int:
    """The room above an image for its label."""
    return _line(LABEL_SIZE) + LABEL_GAP


def caption_height(caption: Caption, width: int) -> int:
    """The room that a caption takes in so much width."""
    lines = len(_wrapped(caption.prompt, width, PROMPT_SIZE, MAX_PROMPT_LINES))
    facts = len(_fact_rows(caption, width)) * _fact_height()
    return lines * _line(PROMPT_SIZE) + GAP // 2 + facts


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


def _fact_height() -> int:
    return _line(LABEL_SIZE - 3) + _line(FACT_SIZE) + GAP // 2


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
