"""The styles that the demo LoRAs teach, as operations on (height, width, 3) pixels."""

import numpy as np

from demo_model.scenes import Mask, Pixels, Scene, mask, paint

STYLES = ("sepia", "outline", "mosaic")
# A share of the shorter side.
OUTLINE_WIDTH = 0.035
TILE_PIXELS = 16
GROUT_PIXELS = 2
_SEPIA = np.array([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]], np.float32)


def paint_styled(
    scene: Scene, width: int, height: int, *styles: str, strength: float = 1.0
) -> Pixels:
    """The scene in these styles, as values from 0 to 255.

    `strength` interpolates between the plain scene, 0, and the styled one, 1.
    """
    plain = paint(scene, width, height)
    pixels = plain.copy()
    if "outline" in styles:
        pixels *= 1 - outline(scene, width, height)[..., None]
    if "mosaic" in styles:
        pixels = mosaic(pixels)
    if "sepia" in styles:
        pixels = sepia(pixels)
    styled: Pixels = plain + strength * (pixels - plain)
    return styled


def sepia(pixels: Pixels) -> Pixels:
    """Brown tones like an old photograph's."""
    toned: Pixels = np.minimum(pixels @ _SEPIA.T, 255)
    return toned


def outline(scene: Scene, width: int, height: int) -> Mask:
    """The share of each pixel that a line around the shapes covers, as (height, width)."""
    line = np.zeros((height, width), np.float32)
    half = OUTLINE_WIDTH * min(width, height) / 2
    for shape in scene.shapes:
        inside, outside = (mask(shape, width, height, grow) for grow in (-half, half))
        # a shape in front hides the lines of those behind it
        line = np.maximum(line * (1 - outside), outside - inside)
    return line


def mosaic(pixels: Pixels) -> Pixels:
    """Square tiles of one colour, with darker joints between them."""
    height, width = pixels.shape[:2]
    rows, columns = -(-height // TILE_PIXELS), -(-width // TILE_PIXELS)
    padded = np.pad(
        pixels,
        ((0, rows * TILE_PIXELS - height), (0, columns * TILE_PIXELS - width), (0, 0)),
        mode="edge",
    )
    tiles = padded.reshape(rows, TILE_PIXELS, columns, TILE_PIXELS, 3).mean(axis=(1, 3))
    flat = tiles.repeat(TILE_PIXELS, axis=0).repeat(TILE_PIXELS, axis=1)
    offset = np.arange(max(flat.shape[:2])) % TILE_PIXELS < GROUT_PIXELS
    joints = offset[: flat.shape[0], None] | offset[None, : flat.shape[1]]
    tiled: Pixels = np.where(joints[..., None], flat * 0.55, flat)[:height, :width]
    return tiled
