"""A LoRA's matrices in host memory, as views into one buffer that holds the file's data."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from pipelines.api.errors import LoraInvalid, LoraNotFound
from pipelines.files.lora_format.file import LayerPlan, Linears, LoraPlan, plan_lora
from pipelines.files.safetensors_header import FLOAT_DTYPES, TensorInfo

_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn,
    "F8_E5M2": torch.float8_e5m2,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


@dataclass(frozen=True, slots=True)
class LoraLayer:
    """One layer's change, `multiplier · up @ down`, in the file's dtype.

    down: (rank, in), up: (out, rank).
    """

    down: torch.Tensor
    up: torch.Tensor
    multiplier: float


@dataclass(frozen=True, slots=True)
class Lora:
    """A parsed file: its data as one tensor of bytes in host memory, and what lies where in it.

    `alphas` are the multipliers of the layers whose alpha is a tensor of the file.
    """

    plan: LoraPlan
    data: torch.Tensor
    multipliers: Mapping[str, float]

    @property
    def size_bytes(self) -> int:
        """Host memory held."""
        return self.data.numel()

    def layers(self, device: torch.device) -> Iterator[tuple[str, LoraLayer]]:
        """Each layer's name and change, on `device`, where the data goes in one copy."""
        data = self.data.to(device, non_blocking=True)
        for name, layer in self.plan.layers.items():
            yield name, _layer(data, self.plan, layer, self.multipliers[name])


def read_lora(path: Path, linears: Linears, *, pinned: bool = False) -> Lora:
    """The LoRA in `path`, every tensor of it matched to a layer of the model.

    `pinned` puts the data where a CUDA device can fetch it itself. Raises LoraNotFound,
    LoraInvalid. The file is read as bytes: safetensors' own file readers leak 64 bytes per tensor
    (0.8.0), and copy.
    """
    if not path.is_file():
        raise LoraNotFound(f"The LoRA file {path.name} is gone.")
    plan = plan_lora(path, linears)
    data = torch.empty(plan.header.data_bytes, dtype=torch.uint8, pin_memory=pinned)
    with path.open("rb") as file:
        file.seek(plan.header.data_start)
        read = file.readinto(data.numpy().data)
    if read != data.numel():
        raise LoraInvalid(f"{path.name} is truncated: it changed while it was read.")
    _refuse_non_finite(plan, data)
    return Lora(
        plan, data, {name: _multiplier(plan, data, layer) for name, layer in plan.layers.items()}
    )


def _refuse_non_finite(plan: LoraPlan, data: torch.Tensor) -> None:
    """Raise LoraInvalid when a matrix holds NaN or infinity."""
    keys = [key for key, info in plan.header.tensors.items() if info.dtype in FLOAT_DTYPES]
    # A sum is not finite when a term is not: one cheap pass, and a look at the few that stand out.
    sums = torch.stack([_summed(_view(data, plan.header.tensors[key])) for key in keys])
    for index in torch.nonzero(~torch.isfinite(sums)).flatten().tolist():
        tensor = _view(data, plan.header.tensors[keys[index]])
        if not bool(torch.isfinite(tensor.float()).all()):
            raise LoraInvalid(f"{plan.path.name} holds NaN or infinity in {keys[index]}.")


def _summed(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dtype.itemsize == 1:  # no arithmetic on float8
        tensor = tensor.to(torch.bfloat16)
    return tensor.sum(dtype=torch.float32)


def _multiplier(plan: LoraPlan, data: torch.Tensor, layer: LayerPlan) -> float:
    if layer.alpha_key is None:
        return layer.multiplier
    alpha = float(_view(data, plan.header.tensors[layer.alpha_key]).float())
    return layer.config.multiplier(alpha, layer.rank)


def _layer(data: torch.Tensor, plan: LoraPlan, layer: LayerPlan, multiplier: float) -> LoraLayer:
    tensors = {part: _view(data, plan.header.tensors[key]) for part, key in layer.parts.items()}
    if layer.is_loha:
        down, up = _loha_factors(tensors)
        return LoraLayer(down, up, multiplier)
    return LoraLayer(tensors["down"], tensors["up"], multiplier)


def _loha_factors(tensors: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """The low-rank factors (r1·r2, in) and (out, r1·r2) of (w1_a @ w1_b) * (w2_a @ w2_b).

    The Hadamard product of two sums of outer products is the sum of the products of all pairs:
    Σᵢⱼ (aᵢ∘cⱼ)(bᵢ∘dⱼ)ᵀ. Exact, where multiplying the matrices out would cost out·in per layer.
    """
    a, b, c, d = (tensors[part].float() for part in ("w1_a", "w1_b", "w2_a", "w2_b"))
    up = (a[:, :, None] * c[:, None, :]).flatten(1)
    down = (b[:, None, :] * d[None, :, :]).flatten(0, 1)
    return down, up


def _view(data: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """The tensor at its byte range; a copy where the range is not aligned to its type."""
    raw = data[info.start : info.end]
    dtype = _DTYPES[info.dtype]
    if info.start % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype).view(info.shape)
