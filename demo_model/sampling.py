"""Draws scenes at random."""

import numpy as np

from demo_model.scenes import COLORS, PATTERNS, SHAPES, Backdrop, Scene, Thing

RADII = (0.13, 0.24)
TWO_THINGS_SHARE = 0.2


def random_scene(rng: np.random.Generator, things: int | None = None) -> Scene:
    """A scene of `things` shapes, or of one and now and then two, each of another colour."""
    if things is None:
        things = 2 if rng.random() < TWO_THINGS_SHARE else 1
    colors = [str(color) for color in rng.choice(list(COLORS), things + 1, replace=False)]
    shapes = [str(shape) for shape in rng.choice(SHAPES, things, replace=False)]
    backdrop = Backdrop(colors[0], str(rng.choice(PATTERNS)), int(rng.integers(2**31)))
    if things == 2:
        return Scene(backdrop, _side_by_side(rng, shapes, colors[1:]))
    return Scene(
        backdrop, tuple(random_thing(rng, *pair) for pair in zip(shapes, colors[1:], strict=True))
    )


def random_thing(rng: np.random.Generator, shape: str, color: str) -> Thing:
    """A shape anywhere inside the image; only the tips of a triangle may be cut."""
    radius = float(rng.uniform(*RADII))
    x, y = (float(place) for place in rng.uniform(radius + 0.03, 0.97 - radius, 2))
    return Thing(shape, color, x, y, radius)


def other_color(rng: np.random.Generator, *taken: str) -> str:
    """A colour of the palette that is not among these."""
    return str(rng.choice([color for color in COLORS if color not in taken]))


def _side_by_side(
    rng: np.random.Generator, shapes: list[str], colors: list[str]
) -> tuple[Thing, ...]:
    """Two smaller things that do not touch, one in each half."""
    things: list[Thing] = []
    for index in rng.permutation(2):
        radius = float(rng.uniform(RADII[0], 0.19))
        x = float(rng.uniform(0.03 + radius, 0.49 - radius)) + (0.5 if things else 0.0)
        y = float(rng.uniform(radius + 0.03, 0.97 - radius))
        things.append(Thing(shapes[index], colors[index], x, y, radius))
    return tuple(things)
