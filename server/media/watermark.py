"""Text in the lower right corner of an image, legible on light and dark."""

import PIL.Image
from PIL import ImageDraw, ImageFont

HEIGHT_SHARE = 0.02
MIN_TEXT_PIXELS = 9


def draw_watermark(image: PIL.Image.Image, text: str) -> None:
    """Draw `text` in white with a dark outline, about 2 % of the image's height.

    Pillow's own font makes the mark look the same on every machine.
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
