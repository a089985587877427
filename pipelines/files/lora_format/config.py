"""PEFT's configuration of a LoRA, in its metadata or beside the file, which sets its strength.

A pair's multiplier is alpha / rank, with rsLoRA alpha / √rank; without an alpha it is 1.
Source: PEFT's LoraConfig, https://huggingface.co/docs/peft/package_reference/lora
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import TEXT_ENCODER

# Alternatives and repetitions in a pattern: two take at most some thousand steps for a layer.
MAX_CHOICES = 2
MAX_PATTERN_CHARS = 200
# One for each of 846 layers is the most that PEFT writes; those with a choice are written by hand.
MAX_PATTERNS = 2000
MAX_PATTERNS_WITH_CHOICES = 20

METADATA_KEY = "lora_adapter_metadata"
# The files that PEFT's save_pretrained writes: the matrices and their configuration.
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"

Patterns = tuple[tuple[re.Pattern[str], float], ...]

_CHOICE = re.compile(r"[*+?(]")
# These take exponential time.
_REPEATED_GROUP = re.compile(r"\)[*+?]|\{")
_MALFORMED = (
    ValueError, TypeError, AttributeError, OverflowError, RecursionError, re.error,
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of a PEFT configuration that changes what the matrices mean.

    `rank_patterns` and `alpha_patterns` have values that replace `rank` and `alpha` in layers whose
    names match, as `compile_patterns` returns them. `text_encoder` is the text encoder's own, if
    there is one.
    """

    rank: float | None = None
    alpha: float | None = None
    rank_patterns: Patterns = ()
    alpha_patterns: Patterns = ()
    is_rslora: bool = False
    is_dora: bool = False
    is_oft: bool = False
    text_encoder: "LoraConfig | None" = None

    def of(self, layer: str) -> "LoraConfig":
        """The configuration of this layer's component."""
        is_text = layer.startswith(TEXT_ENCODER)
        return self.text_encoder if is_text and self.text_encoder else self

    def alpha_of(self, layer: str) -> float | None:
        """The alpha of this layer, or None when the configuration has none."""
        return _matching(self.alpha_patterns, layer, self.alpha)

    def rank_of(self, layer: str) -> float | None:
        """The rank that this layer should have, or None when the configuration has none."""
        return _matching(self.rank_patterns, layer, self.rank)

    def multiplier(self, alpha: float | None, rank: float) -> float:
        """The factor of a change of this rank."""
        if alpha is None:
            return 1.0
        return alpha / math.sqrt(rank) if self.is_rslora else alpha / rank


def read_config(path: Path, metadata: Mapping[str, str], name: str) -> LoraConfig:
    """The configuration of the LoRA at `path`: in its metadata, else in PEFT's file beside it.

    Raises LoraInvalid when it cannot be understood.
    """
    beside = path.with_name(PEFT_CONFIG)
    text: str | bytes
    if METADATA_KEY in metadata:
        text, place = metadata[METADATA_KEY], f"the metadata of {name}"
    elif path.name == PEFT_WEIGHTS and beside.is_file():
        text, place = beside.read_bytes(), f"the {PEFT_CONFIG} beside {name}"
    else:
        return LoraConfig()
    try:
        return _parse(json.loads(text))
    except _MALFORMED as exc:
        reason = str(exc).encode(errors="backslashreplace").decode()
        raise LoraInvalid(f"{place} cannot be understood: {reason}.") from exc


def compile_patterns(values: Mapping[str, float]) -> Patterns:
    """Compile PEFT's regular expressions for the ends of layer names, in their order.

    Raises ValueError or re.error for a malformed one, and for one that could take long: patterns
    come with the file, and no search can be interrupted.
    """
    choices = {pattern: len(_CHOICE.findall(pattern)) for pattern in values}
    if len(choices) > MAX_PATTERNS or sum(map(bool, choices.values())) > MAX_PATTERNS_WITH_CHOICES:
        raise ValueError(f"{len(choices)} patterns are too many")
    for pattern, count in choices.items():
        is_long = count > MAX_CHOICES or len(pattern) > MAX_PATTERN_CHARS
        if is_long or _REPEATED_GROUP.search(pattern):
            raise ValueError(f"the pattern {pattern[:MAX_PATTERN_CHARS]!r} is too complex")
    # PEFT allows any start before a dot
    return tuple((re.compile(rf"(.*\.)?({pattern})$"), value) for pattern, value in values.items())


def _parse(config: Mapping[str, Any]) -> LoraConfig:
    # diffusers puts the component's name before each key
    text = {
        key.removeprefix(TEXT_ENCODER): value
        for key, value in config.items()
        if key.startswith(TEXT_ENCODER)
    }
    own = _parse_component(config)
    return replace(own, text_encoder=_parse_component(text)) if text else own


def _parse_component(config: Mapping[str, Any]) -> LoraConfig:
    plain = {key.removeprefix("transformer."): value for key, value in config.items()}
    rank_patterns, alpha_patterns = (
        compile_patterns({key: _finite(value) for key, value in (plain.get(name) or {}).items()})
        for name in ("rank_pattern", "alpha_pattern")
    )
    return LoraConfig(
        rank=_number(plain.get("r")),
        # LoKr and LoHa have the shorter name
        alpha=_number(plain.get("lora_alpha", plain.get("alpha"))),
        rank_patterns=rank_patterns,
        alpha_patterns=alpha_patterns,
        is_rslora=bool(plain.get("use_rslora")),
        is_dora=bool(plain.get("use_dora")),
        is_oft=str(plain.get("peft_type")).upper() in ("OFT", "BOFT"),
    )


def _matching(patterns: Patterns, layer: str, default: float | None) -> float | None:
    """The value of the first pattern that matches the layer's name or its end, as in PEFT."""
    return next((value for pattern, value in patterns if pattern.match(layer)), default)


def _number(value: object) -> float | None:
    return None if value is None else _finite(value)


def _finite(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"{number} where a finite number is expected")
    return number
