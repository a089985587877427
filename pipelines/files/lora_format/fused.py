"""Layers that a LoRA's trainer had fused into one, and the model's layers in their order."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import Linears
from pipelines.files.lora_format.layer_plan import LayerPlan

# By the end of the fused layer's name: diffusers' `fuse_qkv_projections`.
_FUSED = {
    "attn.to_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
    "attn.to_added_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
}


def with_fused(linears: Linears) -> dict[str, tuple[int, int]]:
    """The layers and those that they can be fused to, with the features of both."""
    layers = dict(linears)
    for name, members in _all_fused(linears).items():
        layers[name] = sum(linears[member][0] for member in members), linears[members[0]][1]
    return layers


def split_fused(
    layers: Mapping[str, LayerPlan], linears: Linears, file: str
) -> dict[str, LayerPlan]:
    """The plans of the model's own layers: each gets its rows of a fused layer's change.

    Raises LoraInvalid when rows cannot be taken from the change, or a layer is also changed alone.
    """
    split: dict[str, LayerPlan] = {}
    fused = _all_fused(linears)
    for name, plan in layers.items():
        start = 0
        for member in fused.get(name, (name,)):
            if member in split:
                raise LoraInvalid(f"{file} changes {member} twice, alone and fused.")
            if name in fused:
                if plan.kind.rows not in plan.parts or set(plan.parts) - plan.kind.parts:
                    raise LoraInvalid(f"{file} changes the fused {name} as a {plan.kind_name}.")
                rows = slice(start, start + linears[member][0])
                start = rows.stop
                split[member] = replace(plan, rows=rows)
            else:
                split[member] = plan
    return split


def _all_fused(linears: Linears) -> dict[str, tuple[str, ...]]:
    return dict(_fused_layers(linears))


def _fused_layers(linears: Linears) -> Iterator[tuple[str, tuple[str, ...]]]:
    for end, ends in _FUSED.items():
        for name in linears:
            if name.endswith(f".{ends[0]}"):
                stem = name.removesuffix(ends[0])
                members = tuple(stem + member for member in ends)
                if all(member in linears for member in members):
                    yield stem + end, members
