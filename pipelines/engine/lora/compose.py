"""Composition of several LoRAs at their scales into one adapter."""

from collections.abc import Callable, Iterator, Mapping, Sequence

import torch
from torch import nn

from pipelines.api.errors import LoraInvalid, LoraOverflow
from pipelines.engine.lora.change import LayerChange
from pipelines.engine.lora.kinds import BUILDERS
from pipelines.engine.lora.kinds.dora import decomposed, gain_of
from pipelines.engine.lora.tensors import Lora, LoraLayer
from pipelines.engine.lora.terms import Term

# The base weight of a layer on the device.
WeightOf = Callable[[str], torch.Tensor]
# The change of each layer, with tensors in the model's dtype on its device.
Adapter = Mapping[str, LayerChange]


def compose(
    stack: Sequence[tuple[Lora, float]],
    weight_of: WeightOf,
    device: torch.device,
    dtype: torch.dtype,
) -> Adapter:
    """One adapter equal to the sum of the LoRAs at their scales.

    Scales and alphas are folded in in fp32, before the cast to `dtype`. Raises LoraInvalid for
    a norm of another width, and LoraOverflow.
    """
    terms: dict[str, list[Term]] = {}
    shifts: dict[str, torch.Tensor] = {}
    for lora, scale in stack:
        for name, layer in lora.layers(device):
            added = _terms(lora, name, layer, scale, weight_of)
            terms.setdefault(name, []).extend(term.cast(dtype) for term in added)
            for part, factor in (("shift", scale), ("bias", scale * layer.multiplier)):
                if part in layer.tensors:
                    shift = layer.tensors[part].float() * factor
                    shifts[name] = shifts[name] + shift if name in shifts else shift
    adapter = {
        name: LayerChange.of(found, shifts[name].to(dtype) if name in shifts else None)
        for name, found in terms.items()
    }
    _refuse_overflow(adapter, stack, dtype)
    return adapter


def _refuse_overflow(
    adapter: Adapter, stack: Sequence[tuple[Lora, float]], dtype: torch.dtype
) -> None:
    """Raise LoraOverflow when a tensor is not finite. Without it, the image would be black."""
    held = [(name, tensor) for name, change in adapter.items() for tensor in change.tensors]
    if not held:
        return
    # one wait for the device, not one per tensor
    largest = nn.utils.get_total_norm([tensor for _, tensor in held], torch.inf)
    if torch.isfinite(largest):
        return
    for name in (name for name, tensor in held if not torch.isfinite(tensor).all()):
        files = " and ".join(
            f"{lora.plan.path.name} at scale {scale:g}"
            for lora, scale in stack
            if name in lora.plan.layers
        )
        raise LoraOverflow(
            f"{files} makes values of {name} that {str(dtype).removeprefix('torch.')} cannot hold. "
            f"Use a smaller scale, or start the server with --dtype bfloat16 or float32."
        )


def _terms(
    lora: Lora, name: str, layer: LoraLayer, scale: float, weight_of: WeightOf
) -> Iterator[Term]:
    build = BUILDERS[layer.kind]
    if layer.kind == "norm":
        _check_norm(lora, name, layer, weight_of(name))
    magnitude = layer.tensors.get("magnitude")
    if magnitude is None:
        yield from build(layer.tensors, scale * layer.multiplier)
        return
    terms = list(build(layer.tensors, layer.multiplier))
    if name not in lora.gains:
        # on the host: the norms take a pass over the model, but an adapter of another scale none
        lora.gains[name] = gain_of(magnitude, weight_of(name), terms).cpu()
    yield from decomposed(terms, lora.gains[name].to(magnitude.device), scale)


def _check_norm(lora: Lora, name: str, layer: LoraLayer, weight: torch.Tensor) -> None:
    """Raise LoraInvalid for another width, which the file's header did not tell."""
    found = {len(tensor) for tensor in layer.tensors.values()}
    if found != {len(weight)}:
        raise LoraInvalid(
            f"{lora.plan.path.name} does not fit this model: {name} is {len(weight)}, the file has "
            f"{min(found)}."
        )


def size_bytes(adapter: Adapter) -> int:
    """Device memory that the adapter holds."""
    return sum(change.size_bytes for change in adapter.values())
