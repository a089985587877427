"""Metrics of one edit: whether it did what was asked, and what else it changed."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from demo_model.edits import Edit
from demo_model.instructions import Task
from demo_model.scenes import COLORS, Pixels, Scene, Shape, mask, paint, rgb

Region = npt.NDArray[np.bool_]

# Shares of the range of values: the mean error below which an area counts as cleared, and the
# error above which a pixel counts as changed.
CLEARED_ERROR = 0.12
CHANGED_ERROR = 0.12
# The distance allowed between a new shape's centre and its place, as a share of the side, and its
# allowed area relative to the expected one.
PLACE_ERROR = 0.12
AREA_FACTORS = (0.4, 2.0)
EDGE_PIXELS = 4.0


@dataclass(frozen=True, slots=True)
class EditMetrics:
    """Metrics of one edit.

    `unchanged_error` is the mean absolute error of what should not change, 0 to 1.
    """

    is_right: bool
    unchanged_error: float


def measure(edit: Edit, output: Pixels) -> EditMetrics:
    """Compare a model's output, (height, width, 3) from 0 to 255, with what the edit asks for."""
    height, width = output.shape[:2]
    rest = _unchanged_region(edit, width, height)
    expected = paint(edit.target, width, height)
    error = np.abs(output - expected)[rest].mean() / 255 if rest.any() else 0.0
    return EditMetrics(bool(_CHECKS[edit.task](edit, output)), float(error))


def _is_recolored(edit: Edit, output: Pixels) -> bool:
    shape = edit.changed[0]
    return _color_inside(shape, output) == shape.color


def _is_on_background(edit: Edit, output: Pixels) -> bool:
    height, width = output.shape[:2]
    bare = ~_covered(edit.target.shapes, width, height, EDGE_PIXELS)
    seen = output[bare].mean(0)
    # the pattern shifts the mean, so the candidates are drawn with it
    backdrops = {color: replace(edit.target.backdrop, color=color) for color in COLORS}
    means = {c: paint(Scene(b), width, height)[bare].mean(0) for c, b in backdrops.items()}
    return _nearest(seen, means) == edit.target.backdrop.color


def _is_removed(edit: Edit, output: Pixels) -> bool:
    height, width = output.shape[:2]
    return _is_cleared(edit, _covered(edit.changed, width, height, 0), output)


def _is_moved(edit: Edit, output: Pixels) -> bool:
    height, width = output.shape[:2]
    before, after = edit.changed
    left_behind = _covered((before,), width, height, 0)
    left_behind &= ~_covered((after,), width, height, EDGE_PIXELS)
    return _color_inside(after, output) == after.color and _is_cleared(edit, left_behind, output)


def _is_added(edit: Edit, output: Pixels) -> bool:
    height, width = output.shape[:2]
    (new,) = edit.changed
    before = paint(edit.sources[0], width, height)
    changed = np.abs(output - before).mean(-1) > 255 * CHANGED_ERROR
    share = changed.sum() / max(1, _covered((new,), width, height, 0).sum())
    if not AREA_FACTORS[0] <= share <= AREA_FACTORS[1]:
        return False
    rows, columns = np.nonzero(changed)
    found = replace(new, x=float(columns.mean()) / width, y=float(rows.mean()) / height)
    is_there = max(abs(found.x - new.x), abs(found.y - new.y)) <= PLACE_ERROR
    color = _color_inside(found, output)
    return is_there and (color == new.color or new.color not in edit.prompt)


def _is_kept(edit: Edit, output: Pixels) -> bool:
    return mean_error(edit.target, output) <= CLEARED_ERROR


_CHECKS = {
    Task.RECOLOR: _is_recolored,
    Task.BACKGROUND: _is_on_background,
    Task.REMOVE: _is_removed,
    Task.ADD: _is_added,
    Task.MOVE: _is_moved,
    Task.TRANSFER: _is_recolored,
    Task.KEEP: _is_kept,
}


def mean_error(scene: Scene, output: Pixels) -> float:
    """The mean absolute error against the drawn scene, 0 to 1."""
    height, width = output.shape[:2]
    return float(np.abs(output - paint(scene, width, height)).mean() / 255)


def _unchanged_region(edit: Edit, width: int, height: int) -> Region:
    if edit.task is Task.BACKGROUND:
        return _covered(edit.target.shapes, width, height, -EDGE_PIXELS)
    region: Region = ~_covered(edit.changed, width, height, EDGE_PIXELS)
    return region


def _covered(shapes: tuple[Shape, ...], width: int, height: int, grow: float) -> Region:
    """The pixels inside the shapes, their outlines moved out by `grow` pixels."""
    covered = np.zeros((height, width), bool)
    for shape in shapes:
        covered |= mask(shape, width, height, grow) > 0.5
    return covered


def _is_cleared(edit: Edit, region: Region, output: Pixels) -> bool:
    height, width = output.shape[:2]
    expected = paint(edit.target, width, height)
    if not region.any():
        return True
    return bool(np.abs(output - expected)[region].mean() <= 255 * CLEARED_ERROR)


def _color_inside(shape: Shape, output: Pixels) -> str:
    """The palette's colour nearest to the mean of the shape's inner part."""
    height, width = output.shape[:2]
    inner = _covered((replace(shape, radius=0.7 * shape.radius),), width, height, 0)
    return _nearest(output[inner].mean(0), {color: rgb(color) for color in COLORS})


def _nearest(seen: Pixels, candidates: dict[str, Pixels]) -> str:
    return min(candidates, key=lambda color: float(np.linalg.norm(seen - candidates[color])))
