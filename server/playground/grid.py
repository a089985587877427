"""A grid: the same edit at several LoRA scales or with several seeds."""

import dataclasses
from dataclasses import dataclass
from enum import StrEnum

from pipelines.api.errors import InvalidParameter
from pipelines.api.params import LORA_SCALE_RANGE, SEED_RANGE
from server.playground.form import Form, LoraField

MAX_CELLS = 12
DEFAULT_SCALES = "0, 0.25, 0.5, 0.75, 1, 1.25"


class Vary(StrEnum):
    """The value that differs between cells."""

    LORA_SCALE = "lora scale"
    SEED = "seed"


@dataclass(frozen=True, slots=True)
class Cell:
    """One edit of a grid, and the label above its image."""

    label: str
    form: Form


def cells(form: Form, vary: str, scales: str, count: float | None, seed: int) -> list[Cell]:
    """The edits of a grid, with one output each.

    `scales` is the typed list for the first LoRA: numbers separated by commas or spaces. All
    cells have `seed`, or count up from it when seeds vary. Raises InvalidParameter.
    """
    plain = dataclasses.replace(form, num_outputs=1, seed=seed, is_seed_locked=True)
    if vary == Vary.SEED:
        return _seed_cells(plain, count, seed)
    rows = form.lora_rows
    if not rows:
        raise InvalidParameter("grid", "needs a LoRA to vary: choose one in the form")
    row = rows[0]
    reference = form.loras[row].reference
    name = reference.rpartition("/")[2].removesuffix(".safetensors")
    found = []
    for scale in _numbers(scales):
        loras = list(form.loras)
        loras[row] = LoraField(reference, scale)
        changed = dataclasses.replace(plain, loras=tuple(loras))
        found.append(Cell(f"{name} × {scale:g}", changed))
    return found


def _seed_cells(form: Form, count: float | None, seed: int) -> list[Cell]:
    if count is None or not 2 <= count <= MAX_CELLS or count != int(count):
        raise InvalidParameter("grid", f"must have 2 to {MAX_CELLS} seeds, got {count}")
    # the largest seed is followed by the smallest
    seeds = [(seed + step) % (SEED_RANGE[1] + 1) for step in range(int(count))]
    return [Cell(f"seed {each}", dataclasses.replace(form, seed=each)) for each in seeds]


def _numbers(text: str) -> list[float]:
    words = text.replace(",", " ").replace(";", " ").split()
    if not 2 <= len(words) <= MAX_CELLS:
        raise InvalidParameter("grid", f"must have 2 to {MAX_CELLS} scales, got {len(words)}")
    low, high = LORA_SCALE_RANGE
    numbers = []
    for word in words:
        try:
            number = float(word)
        except ValueError:
            number = float("nan")
        if not low <= number <= high:
            allowed = f"must have scales between {low:g} and {high:g}, got {word[:40]!r}"
            raise InvalidParameter("grid", allowed)
        numbers.append(number)
    return numbers
