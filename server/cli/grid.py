"""The axes of `qwen-edit edit --grid`: the values that vary over the cells."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

import typer

from pipelines.api.params import CFG_RANGE, LORA_SCALE_RANGE, SEED_RANGE, STEPS_RANGE
from server.cli.client import NUMBER, EditOptions

OPTION = "--grid"
MAX_AXES = 2
MAX_CELLS = 64
# Cells in a row of a grid with a single axis.
MAX_COLUMNS = 6
SEED, STEPS, CFG, SCALE = "seed", "steps", "cfg", "scale"
# The fields that may vary besides the scales of LoRAs, with their bounds.
RANGES = {SEED: SEED_RANGE, STEPS: STEPS_RANGE, CFG: CFG_RANGE}
_WHOLE = (SEED, STEPS)


@dataclass(frozen=True, slots=True)
class Axis:
    """A field that varies, or with `lora` the scale of the LoRA at that index."""

    name: str
    values: tuple[float, ...]
    lora: int | None = None

    def apply(self, options: EditOptions, value: float) -> EditOptions:
        """Return the edit with this value."""
        if self.lora is not None:
            loras = list(options.loras)
            loras[self.lora] = (loras[self.lora][0], value)
            return replace(options, loras=tuple(loras))
        match self.name:
            case "seed":
                return replace(options, seed=int(value))
            case "steps":
                return replace(options, num_inference_steps=int(value))
            case _:
                return replace(options, true_cfg_scale=value)

    def label(self, value: float) -> str:
        """The label of a cell with this value."""
        return f"{self.name} {int(value) if self.name in _WHOLE else f'{value:g}'}"


@dataclass(frozen=True, slots=True)
class GridCell:
    """One edit of a grid, labeled with the value of each axis."""

    options: EditOptions
    label: tuple[str, ...]


def parse_axes(specs: Sequence[str], options: EditOptions) -> tuple[Axis, ...]:
    """Parse the values of `--grid`. Raises typer.BadParameter."""
    if len(specs) > MAX_AXES:
        raise _bad(f"was given {len(specs)} times; a sheet has {MAX_AXES} axes, rows and columns")
    axes = tuple(_parse_axis(spec, options) for spec in specs)
    if len({(axis.name, axis.lora) for axis in axes}) < len(axes):
        raise _bad(f"names {axes[0].name} twice; rows and columns vary different things")
    counts = [len(axis.values) for axis in axes]
    if math.prod(counts) > MAX_CELLS:
        shown = " x ".join(map(str, counts))
        raise _bad(f"{shown} are {math.prod(counts)} cells; at most {MAX_CELLS} are allowed")
    return axes


def lay_out(axes: Sequence[Axis], options: EditOptions) -> list[list[GridCell]]:
    """Arrange the cells in rows: the first of two axes varies down, the second across."""
    *rows, across = axes
    if rows:
        [down] = rows
        return [
            [
                GridCell(
                    across.apply(down.apply(options, row), value),
                    (down.label(row), across.label(value)),
                )
                for value in across.values
            ]
            for row in down.values
        ]
    cells = [
        GridCell(across.apply(options, value), (across.label(value),)) for value in across.values
    ]
    return [cells[start : start + MAX_COLUMNS] for start in range(0, len(cells), MAX_COLUMNS)]


def lora_name(reference: str) -> str:
    """The short name of a LoRA for labels."""
    return PurePosixPath(reference).name.removesuffix(".safetensors")


def _parse_axis(spec: str, options: EditOptions) -> Axis:
    key, equals, text = spec.rpartition("=")
    if not (key and equals and text):
        raise _bad(f"{spec!r} must be NAME=VALUES, such as scale=0,0.5,1 or seed=1:4:1")
    values = _parse_values(spec, text)
    if key in RANGES:
        allowed = RANGES[key]
        axis = Axis(key, values)
    else:
        lora = _lora_index(spec, key, options)
        allowed = LORA_SCALE_RANGE
        axis = Axis(lora_name(options.loras[lora][0]), values, lora)
    low, high = allowed
    for value in values:
        if not low <= value <= high:
            raise _bad(f"{spec!r}: {key} must be between {low} and {high}, got {value:g}")
        if key in _WHOLE and not value.is_integer():
            raise _bad(f"{spec!r}: {key} must be a whole number, got {value:g}")
    return axis


def _parse_values(spec: str, text: str) -> tuple[float, ...]:
    """Parse `a,b,c`, or `from:to:step` with both ends."""
    if re.fullmatch(rf"{NUMBER}(,{NUMBER})*", text):
        return tuple(map(float, text.split(",")))
    if not re.fullmatch(rf"{NUMBER}:{NUMBER}:{NUMBER}", text):
        raise _bad(f"{spec!r}: {text!r} must be numbers as 0,0.5,1 or a range as 0:1:0.25")
    start, stop, step = map(float, text.split(":"))
    if step <= 0 or stop < start:
        raise _bad(f"{spec!r}: a range is FROM:TO:STEP, upwards in steps above 0")
    # 0:1.2:0.3 has five values, although 0.3 is not a binary fraction
    spans = (stop - start) / step + 1e-6
    if not spans < MAX_CELLS:  # also true for inf and nan: float("1e999") is inf
        raise _bad(f"{spec!r} has too many values; at most {MAX_CELLS} cells are allowed")
    return tuple(round(start + number * step, 6) for number in range(math.floor(spans) + 1))


def _lora_index(spec: str, key: str, options: EditOptions) -> int:
    given = [reference for reference, _ in options.loras]
    named = [n for n, reference in enumerate(given) if key in (reference, lora_name(reference))]
    if key == SCALE and len(given) == 1:
        return 0
    if len(named) == 1:
        return named[0]
    listed = ", ".join(given) or "none"
    if key == SCALE:
        message = "add --lora NAME" if not given else "name one, as NAME=0,0.5,1"
        raise _bad(
            f"{spec!r} varies the scale of the only LoRA, and --lora names {listed}: {message}"
        )
    raise _bad(
        f"{spec!r}: {key!r} is none of scale, seed, steps and cfg, and no LoRA given with --lora "
        f"({listed})"
    )


def _bad(message: str) -> typer.BadParameter:
    return typer.BadParameter(message, param_hint=OPTION)
