"""Random scenes."""

import numpy as np

from demo_model.scenes import COLORS, KINDS, PATTERNS, Backdrop, Scene, Shape

RADII = (0.13, 0.24)
TWO_SHAPES_SHARE = 0.2


def random_scene(rng: np.random.Generator, shapes: int | None = None) -> Scene:
    """A scene of `shapes` shapes in different colours; by default one, sometimes two."""
    if shapes is None:
        shapes = 2 if rng.random() < TWO_SHAPES_SHARE else 1
    colors = [str(color) for color in rng.choice(list(COLORS), shapes + 1, replace=False)]
    kinds = [str(kind) for kind in rng.choice(KINDS, shapes, replace=False)]
    backdrop = Backdrop(colors[0], str(rng.choice(PATTERNS)), int(rng.integers(2**31)))
    if shapes == 2:
        return Scene(backdrop, _side_by_side(rng, kinds, colors[1:]))
    return Scene(
        backdrop, tuple(random_shape(rng, *pair) for pair in zip(kinds, colors[1:], strict=True))
    )


def random_shape(rng: np.random.Generator, kind: str, color: str) -> Shape:
    """A shape inside the image; only the tips of a triangle may be cut off."""
    radius = float(rng.uniform(*RADII))
    x, y = (float(place) for place in rng.uniform(radius + 0.03, 0.97 - radius, 2))
    return Shape(kind, color, x, y, radius)


def other_color(rng: np.random.Generator, *taken: str) -> str:
    """A colour of the palette other than `taken`."""
    return str(rng.choice([color for color in COLORS if color not in taken]))


def _side_by_side(
    rng: np.random.Generator, kinds: list[str], colors: list[str]
) -> tuple[Shape, ...]:
    """Two smaller shapes that do not touch, one in each half."""
    shapes: list[Shape] = []
    for index in rng.permutation(2):
        radius = float(rng.uniform(RADII[0], 0.19))
        x = float(rng.uniform(0.03 + radius, 0.49 - radius)) + (0.5 if shapes else 0.0)
        y = float(rng.uniform(radius + 0.03, 0.97 - radius))
        shapes.append(Shape(kinds[index], colors[index], x, y, radius))
    return tuple(shapes)
