"""Drawn scenes: positions, colours, patterns and styles at any size."""

import numpy as np
import pytest

from demo_model.sampling import random_scene
from demo_model.scenes import COLORS, KINDS, PATTERNS, Backdrop, Scene, Shape, draw, mask
from demo_model.styles import STYLES, paint_styled


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(64, 64), (200, 120)])
def test_shape_is_drawn_in_its_color_on_the_backdrops(kind: str, size: tuple[int, int]) -> None:
    scene = Scene(Backdrop("yellow"), (Shape(kind, "blue", 0.7, 0.5, 0.2),))

    image = draw(scene, *size)

    assert image.size == size
    assert image.getpixel((round(0.7 * size[0]), size[1] // 2)) == COLORS["blue"]
    assert image.getpixel((2, 2)) == COLORS["yellow"]


@pytest.mark.parametrize("pattern", PATTERNS)
def test_pattern_repeats_with_its_seed_and_stays_near_its_color(pattern: str) -> None:
    one, two = (np.asarray(draw(Scene(Backdrop("orange", pattern, 5)), 64, 64)) for _ in "ab")

    assert (one == two).all()
    distances = {c: np.linalg.norm(one.mean((0, 1)) - np.array(rgb)) for c, rgb in COLORS.items()}
    assert min(distances, key=lambda color: distances[color]) == "orange"


def test_random_shapes_are_inside_and_differ_in_color_from_the_backdrop() -> None:
    rng = np.random.default_rng(3)
    for _ in range(200):
        scene = random_scene(rng)
        colors = [scene.backdrop.color, *(shape.color for shape in scene.shapes)]
        assert len(set(colors)) == len(colors)
        for shape in scene.shapes:
            cover = mask(shape, 64, 64)
            border = (cover[0], cover[-1], cover[:, 0], cover[:, -1])
            assert max(edge.sum() for edge in border) <= 4  # a triangle's tip


@pytest.mark.parametrize("style", STYLES)
def test_style_changes_the_image(style: str) -> None:
    scene = random_scene(np.random.default_rng(1))

    change = np.abs(paint_styled(scene, 128, 128, style) - paint_styled(scene, 128, 128))

    assert change.mean() > 3
