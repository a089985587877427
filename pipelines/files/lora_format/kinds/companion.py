"""Tensors that go along with a kind of LoRA: a DoRA's magnitude, shifts of the bias."""

import re
from collections.abc import Callable
from dataclasses import dataclass

from pipelines.files.lora_format.kinds.kind import Features


@dataclass(frozen=True, slots=True)
class Companion:
    """A tensor beside those of a layer's kind.

    `kinds` are the names of the kinds that it may go along with; `name` replaces theirs in reports
    if it is not empty. `fits` tells if a shape is that of a layer's companion.
    """

    part: str
    name: str
    suffixes: tuple[re.Pattern[str], ...]
    kinds: frozenset[str]
    fits: Callable[[tuple[int, ...], Features], bool]
