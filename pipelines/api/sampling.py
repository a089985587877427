"""Sampling profiles: steps, guidance and noise schedule.

Few-step LoRAs were distilled on a schedule of their own and give a wrong image on any other.
"""

import itertools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any

from pipelines.api.errors import InvalidParameter

CFG_RANGE = (0.0, 20.0)
# One step divides zero by zero in the published schedule (shift_terminal) and gives a NaN image.
STEPS_RANGE = (2, 100)
# exp(mu) of the published schedule is 1.6 to 2.5, Lightning's is 3.
SHIFT_RANGE = (0.1, 100.0)
# The noise that the last step starts from; 0 means that nothing is stretched to it.
NO_TERMINAL = 0.0
TERMINAL_RANGE = (NO_TERMINAL, 0.9)


@dataclass(frozen=True, slots=True)
class Sampling:
    """A sampling profile; None leaves a value to the next source.

    `shift` is exp(mu) of diffusers' flow-matching schedulers. `shift_terminal` stretches the
    schedule so that its last step starts at this sigma; `NO_TERMINAL` does not. `sigmas` are the
    starts of all steps, falling, without the final 0; they exclude steps, shift and terminal.
    Raises InvalidParameter, naming the field.
    """

    steps: int | None = None
    true_cfg_scale: float | None = None
    shift: float | None = None
    shift_terminal: float | None = None
    sigmas: tuple[float, ...] | None = None

    def __post_init__(self) -> None:
        _check_range("steps", self.steps, STEPS_RANGE)
        _check_range("true_cfg_scale", self.true_cfg_scale, CFG_RANGE)
        _check_range("shift", self.shift, SHIFT_RANGE)
        _check_range("shift_terminal", self.shift_terminal, TERMINAL_RANGE)
        if self.sigmas is not None:
            _check_sigmas(self.sigmas)
            if excluded := [name for name in CURVE if name in self.given]:
                raise InvalidParameter(
                    "sigmas", f"cannot be combined with {' and '.join(excluded)}"
                )

    @property
    def step_count(self) -> int | None:
        """The number of steps, also where explicit sigmas imply it."""
        return self.steps if self.sigmas is None else len(self.sigmas)

    @property
    def given(self) -> dict[str, Any]:
        """The fields that have a value."""
        values = {each.name: getattr(self, each.name) for each in fields(self)}
        return {key: value for key, value in values.items() if value is not None}

    def __bool__(self) -> bool:
        return bool(self.given)

    def __str__(self) -> str:
        """The profile in a few words, such as "4 steps, CFG 1, shift 3, no terminal"."""
        return ", ".join(self._words())

    def _words(self) -> Iterator[str]:
        if self.sigmas is not None:
            yield sigmas_text(self.sigmas)
        if self.steps is not None:
            yield f"{self.steps} steps"
        if self.true_cfg_scale is not None:
            yield f"CFG {self.true_cfg_scale:g}"
        if self.shift is not None:
            yield f"shift {self.shift:g}"
        if self.shift_terminal is not None:
            yield terminal_text(self.shift_terminal)


def sigmas_text(sigmas: tuple[float, ...]) -> str:
    """Explicit sigmas for people."""
    return f"sigmas {' '.join(f'{sigma:g}' for sigma in sigmas)}"


def terminal_text(terminal: float | None) -> str:
    """A terminal for people; `NO_TERMINAL` and None are none."""
    return f"terminal {terminal:g}" if terminal else "no terminal"


# The fields that shape a schedule which `sigmas` replaces.
CURVE = ("steps", "shift", "shift_terminal")
KEYS = tuple(each.name for each in fields(Sampling))


def parse_sampling(values: object) -> Sampling:
    """Read a profile from JSON, in which null for `shift_terminal` means none.

    Raises InvalidParameter for a value, ValueError for an unknown key or another type.
    """
    if not isinstance(values, dict):
        raise ValueError(f"an object is expected, got {type(values).__name__}")
    if unknown := sorted(set(values) - set(KEYS)):
        raise ValueError(f"unknown keys: {', '.join(unknown)}; allowed are {', '.join(KEYS)}")
    given = {key: value for key, value in values.items() if value is not None}
    # beside sigmas null is no contradiction: they are run as they are
    if "shift_terminal" in values and "sigmas" not in given:
        given.setdefault("shift_terminal", NO_TERMINAL)
    sigmas = given.get("sigmas", [])
    if not isinstance(sigmas, list) or not all(map(_is_number, (*sigmas, *_numbers(given)))):
        raise ValueError("numbers are expected, and for sigmas a list of numbers")
    if not float(given.get("steps", 0)).is_integer():
        raise ValueError(f"steps is a whole number, got {given['steps']}")
    if "sigmas" in given:
        given["sigmas"] = tuple(map(float, sigmas))
    if "steps" in given:
        given["steps"] = int(given["steps"])
    return Sampling(**given)


def dump_sampling(sampling: Sampling) -> dict[str, Any]:
    """The JSON that `parse_sampling` reads."""
    given = sampling.given
    if sampling.sigmas is not None:
        given["sigmas"] = list(sampling.sigmas)
    if sampling.shift_terminal == NO_TERMINAL:
        given["shift_terminal"] = None
    return given


def _check_sigmas(sigmas: tuple[float, ...]) -> None:
    if not 1 <= len(sigmas) <= STEPS_RANGE[1]:
        raise InvalidParameter(
            "sigmas", f"must have 1 to {STEPS_RANGE[1]} entries, got {len(sigmas)}"
        )
    falling = all(after < before for before, after in itertools.pairwise(sigmas))
    if not falling or not 0 < sigmas[-1] <= sigmas[0] <= 1:
        shown = " ".join(f"{sigma:g}" for sigma in sigmas)
        raise InvalidParameter(
            "sigmas", f"must fall from at most 1 to above 0, without the final 0, got {shown}"
        )


def _check_range(name: str, value: float | None, allowed: tuple[float, float]) -> None:
    low, high = allowed
    if value is not None and not (math.isfinite(value) and low <= value <= high):
        raise InvalidParameter(name, f"must be between {low:g} and {high:g}, got {value:g}")


def _numbers(given: Mapping[str, object]) -> Iterator[object]:
    return (value for key, value in given.items() if key != "sigmas")


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
