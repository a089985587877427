"""Draws `input.png`, the picture that the demo edits: a red ball over a soft gradient."""

from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter

SIDE = 512
SCALE = 4  # drawn larger and reduced, so that edges are smooth
SKY, GROUND = (196, 222, 240), (238, 226, 200)
BALL = (206, 44, 38)
SHINE = (244, 150, 140)
SHADOW = (120, 104, 84)


def scene(side: int = SIDE) -> Image.Image:
    """The ball in the middle, its shadow below it, one light spot on it."""
    picture = _gradient(side)
    large = side * SCALE
    picture.paste(SHADOW, mask=_ellipse(large, (0.30, 0.76, 0.70, 0.82), blur=0.012, alpha=130))
    picture.paste(BALL, mask=_ellipse(large, (0.28, 0.34, 0.72, 0.78)))
    picture.paste(SHINE, mask=_ellipse(large, (0.37, 0.41, 0.48, 0.50), blur=0.02, alpha=200))
    return picture


def _gradient(side: int) -> Image.Image:
    ramp = Image.linear_gradient("L").resize((side, side), Image.Resampling.BILINEAR)
    return Image.composite(
        Image.new("RGB", (side, side), GROUND), Image.new("RGB", (side, side), SKY), ramp
    )


def _ellipse(
    large: int, box: tuple[float, float, float, float], blur: float = 0.0, alpha: int = 255
) -> Image.Image:
    """A mask; the box and the radius of the blur are fractions of the side."""
    mask = Image.new("L", (large, large), 0)
    left, top, right, bottom = (round(edge * large) for edge in box)
    ImageDraw.Draw(mask).ellipse((left, top, right, bottom), fill=alpha)
    if blur:
        mask = mask.filter(ImageFilter.GaussianBlur(blur * large))
    return mask.resize((large // SCALE, large // SCALE), Image.Resampling.LANCZOS)


if __name__ == "__main__":
    scene().save(Path(__file__).with_name("input.png"), optimize=True)
