"""A LoRA's tensors, as views into one buffer of the file's data."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from pipelines.api.errors import LoraInvalid, LoraNotFound
from pipelines.api.families import Linears
from pipelines.files.lora_format.file import LoraPlan, plan_lora
from pipelines.files.lora_format.layer_plan import LayerPlan
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
    """One layer's change: `multiplier` times what the tensors of its kind define.

    The tensors are named by part, in the file's dtype.
    """

    kind: str
    tensors: Mapping[str, torch.Tensor]
    multiplier: float


@dataclass(frozen=True, slots=True)
class Lora:
    """A parsed file: its data as one tensor of bytes in host memory, and the plan of its layers.

    `multipliers` has one entry per layer: alpha / rank, however the file gives the alpha. An idle
    file changes nothing, because its tensors are zero or its alphas are. `gains`
    keeps what a DoRA's magnitudes are relative to the base model, once it is known.
    """

    plan: LoraPlan
    data: torch.Tensor
    multipliers: Mapping[str, float]
    is_idle: bool = False
    gains: dict[str, torch.Tensor] = field(default_factory=dict)

    @property
    def size_bytes(self) -> int:
        """The host memory that the LoRA takes, with a gain in fp32 for each magnitude."""
        infos, layers = self.plan.header.tensors, self.plan.layers.values()
        magnitudes = [infos[layer.parts["magnitude"]] for layer in layers if layer.is_dora]
        return self.data.numel() + sum(4 * math.prod(info.shape) for info in magnitudes)

    def layers(self, device: torch.device) -> Iterator[tuple[str, LoraLayer]]:
        """Each layer's name and change on `device`; the data is copied there once."""
        data = self.data.to(device, non_blocking=True)
        for name, layer in self.plan.layers.items():
            yield name, _layer(data, self.plan, layer, self.multipliers[name])


def read_lora(path: Path, linears: Linears, *, pinned: bool = False) -> Lora:
    """Read the LoRA in `path` and match every tensor of it to a layer of the model.

    `pinned` allocates page-locked memory for fast copies to a CUDA device. The file is read as
    bytes, because the readers of safetensors 0.8.0 leak 64 bytes per tensor and copy.
    Raises LoraNotFound, LoraInvalid.
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
    zeros = _zero_keys(plan, data)
    multipliers = {name: _multiplier(plan, data, layer) for name, layer in plan.layers.items()}
    is_idle = all(layer.is_idle(zeros, multipliers[name]) for name, layer in plan.layers.items())
    return Lora(plan, data, multipliers, is_idle)


def _zero_keys(plan: LoraPlan, data: torch.Tensor) -> frozenset[str]:
    """The keys of tensors that are all zero. Raises LoraInvalid for NaN and infinity."""
    infos = plan.header.tensors
    keys = [key for key in plan.used_keys if infos[key].dtype in FLOAT_DTYPES]
    # A sum is not finite when one of its terms is not: a cheap pass selects tensors to examine.
    sums = torch.stack([_summed(_view(data, infos[key])) for key in keys])
    for index in torch.nonzero(~torch.isfinite(sums)).flatten().tolist():
        tensor = _view(data, infos[keys[index]])
        if not bool(torch.isfinite(tensor.float()).all()):
            raise LoraInvalid(f"{plan.path.name} holds NaN or infinity in {keys[index]}.")
    without_sum = [keys[index] for index in torch.nonzero(sums == 0).flatten().tolist()]
    return frozenset(key for key in without_sum if not _view(data, infos[key]).float().any())


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
    if layer.rows is not None and layer.kind.rows is not None:
        tensors[layer.kind.rows] = tensors[layer.kind.rows][layer.rows]
    return LoraLayer(layer.kind.name, tensors, multiplier)


def _view(data: torch.Tensor, info: TensorInfo) -> torch.Tensor:
    """The tensor at its byte range; a copy when the range is not aligned to its type."""
    raw = data[info.start : info.end]
    dtype = _DTYPES[info.dtype]
    if info.start % dtype.itemsize:
        raw = raw.clone()
    return raw.view(dtype).view(info.shape)
