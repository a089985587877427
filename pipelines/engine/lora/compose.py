"""Composition of several LoRAs at their scales into one adapter."""

from collections.abc import Mapping, Sequence

import torch

from pipelines.engine.lora.change import LayerChange
from pipelines.engine.lora.kinds import BUILDERS
from pipelines.engine.lora.tensors import Lora
from pipelines.engine.lora.terms import Term

# The change of each layer, with tensors in the model's dtype on its device.
Adapter = Mapping[str, LayerChange]


def compose(
    stack: Sequence[tuple[Lora, float]], device: torch.device, dtype: torch.dtype
) -> Adapter:
    """One adapter equal to the sum of the LoRAs at their scales.

    Scales and alphas are folded in in fp32, before the cast to `dtype`.
    """
    terms: dict[str, list[Term]] = {}
    for lora, scale in stack:
        for name, layer in lora.layers(device):
            build = BUILDERS[layer.kind]
            added = build(layer.tensors, scale * layer.multiplier)
            terms.setdefault(name, []).extend(term.cast(dtype) for term in added)
    return {name: LayerChange.of(found) for name, found in terms.items()}


def size_bytes(adapter: Adapter) -> int:
    """Device memory that the adapter holds."""
    return sum(change.size_bytes for change in adapter.values())
