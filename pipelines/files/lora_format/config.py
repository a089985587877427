"""PEFT's configuration of a LoRA, in its metadata or beside the file, which sets its strength.

A pair's multiplier is alpha / rank, with rsLoRA alpha / √rank; without an alpha it is 1.
Source: PEFT's LoraConfig, https://huggingface.co/docs/peft/package_reference/lora
"""

import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.api.errors import LoraInvalid

METADATA_KEY = "lora_adapter_metadata"
# The files that PEFT's save_pretrained writes: the matrices and their configuration.
PEFT_WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class LoraConfig:
    """The part of a PEFT configuration that changes what the matrices mean.

    `rank_pattern` and `alpha_pattern` map regular expressions for the ends of layer names to
    values that replace `rank` and `alpha` there.
    """

    rank: float | None = None
    alpha: float | None = None
    rank_pattern: Mapping[str, float] = field(default_factory=dict)
    alpha_pattern: Mapping[str, float] = field(default_factory=dict)
    is_rslora: bool = False
    is_dora: bool = False

    def alpha_of(self, layer: str) -> float | None:
        """The alpha of this layer, or None when the configuration has none."""
        return _matching(self.alpha_pattern, layer, self.alpha)

    def rank_of(self, layer: str) -> float | None:
        """The rank that this layer should have, or None when the configuration has none."""
        return _matching(self.rank_pattern, layer, self.rank)

    def multiplier(self, alpha: float | None, rank: int) -> float:
        """The factor of `up @ down`."""
        if alpha is None:
            return 1.0
        return alpha / math.sqrt(rank) if self.is_rslora else alpha / rank


def read_config(path: Path, metadata: Mapping[str, str], name: str) -> LoraConfig:
    """The configuration of the LoRA at `path`: in its metadata, else in PEFT's file beside it.

    Raises LoraInvalid when it cannot be understood.
    """
    beside = path.with_name(PEFT_CONFIG)
    if METADATA_KEY in metadata:
        text, place = metadata[METADATA_KEY], f"the metadata of {name}"
    elif path.name == PEFT_WEIGHTS and beside.is_file():
        text, place = beside.read_text(), f"the {PEFT_CONFIG} beside {name}"
    else:
        return LoraConfig()
    try:
        return _parse(json.loads(text))
    except (ValueError, TypeError, AttributeError, re.error) as exc:
        raise LoraInvalid(f"{place} cannot be understood: {exc}.") from exc


def _parse(config: Mapping[str, Any]) -> LoraConfig:
    # diffusers puts the component's name before each key
    plain = {key.removeprefix("transformer."): value for key, value in config.items()}
    patterns = {
        name: {str(key): _finite(value) for key, value in (plain.get(name) or {}).items()}
        for name in ("rank_pattern", "alpha_pattern")
    }
    for pattern in (*patterns["rank_pattern"], *patterns["alpha_pattern"]):
        re.compile(pattern)
    return LoraConfig(
        rank=_number(plain.get("r")),
        alpha=_number(plain.get("lora_alpha")),
        rank_pattern=patterns["rank_pattern"],
        alpha_pattern=patterns["alpha_pattern"],
        is_rslora=bool(plain.get("use_rslora")),
        is_dora=bool(plain.get("use_dora")),
    )


def _matching(patterns: Mapping[str, float], layer: str, default: float | None) -> float | None:
    """The value of the first pattern that matches the layer's name or its end, as in PEFT."""
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", layer):
            return value
    return default


def _number(value: object) -> float | None:
    return None if value is None else _finite(value)


def _finite(value: object) -> float:
    number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"{number} where a finite number is expected")
    return number
