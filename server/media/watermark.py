"""A line of text in an image's lower right corner, legible on light and on dark."""

import PIL.Image
from PIL import ImageDraw, ImageFont

HEIGHT_SHARE = 0.02
MIN_TEXT_PIXELS = 9


def draw_watermark(image: PIL.Image.Image, text: str) -> None:
    """Draw `text` about 2 % of the image's height high, white with a dark edge.

    The font comes with Pillow, so that the mark looks the same on every machine.
    """
    size = max(MIN_TEXT_PIXELS, round(image.height * HEIGHT_SHARE))
    font = ImageFont.load_default(size=size)
    draw = ImageDraw.Draw(image)
    margin = size
    draw.text(
        (image.width - margin, image.height - margin),
        text,
        font=font,
        anchor="rs",
        fill="white",
        stroke_width=max(1, size // 8),
        stroke_fill=(40, 40, 40),
    )
