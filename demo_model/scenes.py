"""Drawn scenes: coloured shapes on plain and patterned backgrounds, all that the demo model knows.

Positions and lengths are fractions of the image: `x` of its width, `y` of its height, `radius` of
its shorter side, so one scene can be drawn at any size.
"""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL.Image

Pixels = npt.NDArray[np.floating[Any]]
Mask = npt.NDArray[np.floating[Any]]

KINDS = ("circle", "square", "triangle")
COLORS: dict[str, tuple[int, int, int]] = {
    "red": (220, 40, 40),
    "green": (40, 160, 60),
    "blue": (40, 80, 220),
    "yellow": (245, 215, 40),
    "purple": (140, 50, 170),
    "orange": (245, 130, 25),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
    "pink": (250, 150, 190),
    "gray": (128, 128, 128),
}
PATTERNS = ("plain", "gradient", "stripes", "clouds")
# How far a pattern goes towards its darker or lighter tone; beyond this, orange looks brown.
PATTERN_DEPTH = 0.22


@dataclass(frozen=True, slots=True)
class Shape:
    """A circle, square or triangle; at one `radius`, all three look about equally large."""

    kind: str
    color: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True, slots=True)
class Backdrop:
    """The background. `seed` fixes the direction and the waves of its pattern."""

    color: str
    pattern: str = "plain"
    seed: int = 0


@dataclass(frozen=True, slots=True)
class Scene:
    """A backdrop and the shapes on it, the last one in front."""

    backdrop: Backdrop
    shapes: tuple[Shape, ...] = ()

    def with_shape(self, index: int, shape: Shape) -> "Scene":
        """The scene with one shape replaced."""
        shapes = (*self.shapes[:index], shape, *self.shapes[index + 1 :])
        return replace(self, shapes=shapes)

    def without_shape(self, index: int) -> "Scene":
        """The scene without one of its shapes."""
        return replace(self, shapes=(*self.shapes[:index], *self.shapes[index + 1 :]))


def draw(scene: Scene, width: int, height: int) -> PIL.Image.Image:
    """The scene as an RGB image, width and height in pixels."""
    return as_image(paint(scene, width, height))


def as_image(pixels: Pixels) -> PIL.Image.Image:
    """An RGB image from (height, width, 3) values, 0 to 255."""
    return PIL.Image.fromarray(np.round(pixels).astype(np.uint8))


def paint(scene: Scene, width: int, height: int) -> Pixels:
    """The scene as (height, width, 3) values, 0 to 255."""
    pixels = _paint_backdrop(scene.backdrop, width, height)
    for shape in scene.shapes:
        cover = mask(shape, width, height)[..., None]
        pixels = pixels * (1 - cover) + rgb(shape.color) * cover
    return pixels


def rgb(color: str) -> Pixels:
    """A colour of the palette as three values, 0 to 255."""
    return np.array(COLORS[color], np.float32)


def mask(shape: Shape, width: int, height: int, grow: float = 0.0) -> Mask:
    """The share of each pixel that the shape covers, 0 to 1, as (height, width).

    `grow` moves the outline out, in pixels. Edges are smooth over one pixel.
    """
    side = min(width, height)
    x, y = _pixel_grid(width, height)
    dx, dy = x - shape.x * width, y - shape.y * height
    distance = _DISTANCES[shape.kind](dx, dy, shape.radius * side)
    covered: Mask = np.clip(0.5 - distance + grow, 0, 1).astype(np.float32)
    return covered


def _circle(dx: Pixels, dy: Pixels, radius: float) -> Pixels:
    distance: Pixels = np.hypot(dx, dy) - radius
    return distance


def _square(dx: Pixels, dy: Pixels, radius: float) -> Pixels:
    distance: Pixels = np.maximum(np.abs(dx), np.abs(dy)) - 0.9 * radius
    return distance


def _triangle(dx: Pixels, dy: Pixels, radius: float) -> Pixels:
    """Upright, with equal sides. The distance is exact at the edges, where it decides coverage."""
    inner = 0.58 * radius
    slope = np.abs(dx) * math.cos(math.pi / 6) - dy * math.sin(math.pi / 6)
    distance: Pixels = np.maximum(slope - inner, dy - inner)
    return distance


_DISTANCES = {"circle": _circle, "square": _square, "triangle": _triangle}


def _paint_backdrop(backdrop: Backdrop, width: int, height: int) -> Pixels:
    base = rgb(backdrop.color)
    # dark colours vary towards white, light ones towards black
    tone = np.float32(255 if base.mean() < 80 else 0)
    depth = PATTERN_DEPTH * _pattern(backdrop, width, height)[..., None]
    painted: Pixels = (base * (1 - depth) + tone * depth).astype(np.float32)
    return painted


def _pattern(backdrop: Backdrop, width: int, height: int) -> Mask:
    """The strength of the tone at each pixel, 0 to 1."""
    if backdrop.pattern == "plain":
        return np.zeros((height, width), np.float32)
    rng = np.random.default_rng(backdrop.seed)
    side = min(width, height)
    x, y = _pixel_grid(width, height)
    x, y = x / side, y / side
    angle = rng.uniform(0, 2 * math.pi)
    along = x * math.cos(angle) + y * math.sin(angle)
    if backdrop.pattern == "gradient":
        span = along.max() - along.min()
        ramp: Mask = ((along - along.min()) / span).astype(np.float32)
        return ramp
    if backdrop.pattern == "stripes":
        waves = np.sin(2 * math.pi * along * rng.integers(3, 7))
    else:
        waves = np.zeros((height, width), np.float32)
        for _ in range(3):
            turn, phase = rng.uniform(0, 2 * math.pi, 2)
            rate = rng.uniform(6, 16)
            waves += np.sin(rate * (x * math.cos(turn) + y * math.sin(turn)) + phase) / 3
    return ((waves + 1) / 2).astype(np.float32)


def _pixel_grid(width: int, height: int) -> tuple[Pixels, Pixels]:
    """The x and y of pixel centres: (1, width) and (height, 1)."""
    y, x = np.ogrid[0:height, 0:width]
    return x.astype(np.float32) + 0.5, y.astype(np.float32) + 0.5
