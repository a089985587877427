"""A line of text in a picture's lower right corner, legible on light and on dark."""

import PIL.Image
from PIL import ImageDraw, ImageFont

HEIGHT_SHARE = 0.02
MIN_TEXT_PIXELS = 9


def draw_watermark(picture: PIL.Image.Image, text: str) -> None:
    """Draw `text` about 2 % of the picture's height high, white with a dark edge.

    The font comes with Pillow, so that the mark looks the same on every machine.
    """
    size = max(MIN_TEXT_PIXELS, round(picture.height * HEIGHT_SHARE))
    font = ImageFont.load_default(size=size)
    draw = ImageDraw.Draw(picture)
    margin = size
    draw.text(
        (picture.width - margin, picture.height - margin),
        text,
        font=font,
        anchor="rs",
        fill="white",
        stroke_width=max(1, size // 8),
        stroke_fill=(40, 40, 40),
    )
