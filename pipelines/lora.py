"""LoRA tensors to one adapter: read, compose, activate.

Up to three LoRAs become one pair of matrices per linear layer: ranks concatenated, scale and
alpha/rank folded into the up matrix. The layers hold the pair as plain tensors, so that nothing is
added to or removed from the module tree, and switching an adapter off leaves the base model bit
for bit.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from pipelines import lora_file
from pipelines.errors import LoraInvalid, LoraNotFound

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

    down: (rank, in), up: (out, rank); multiplier is alpha / rank.
    """

    down: torch.Tensor
    up: torch.Tensor
    multiplier: float


Lora = Mapping[str, LoraLayer]
Adapter = Mapping[str, tuple[torch.Tensor, torch.Tensor]]


class AdaptableLinear(nn.Linear):
    """nn.Linear plus, while an adapter is active, `(x @ down.T) @ up.T`.

    Layers get this class by assignment, which keeps their parameters, names and hooks as they are.
    """

    adapter: tuple[torch.Tensor, torch.Tensor] | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        base = super().forward(x)
        if self.adapter is None:
            return base
        down, up = self.adapter
        return base + functional.linear(functional.linear(x, down), up)


class LoraEngine:
    """The linear layers of one transformer, ready to take adapters."""

    def __init__(self, transformer: nn.Module, device: torch.device) -> None:
        self._device = device
        self._layers: dict[str, AdaptableLinear] = {}
        for name, module in transformer.named_modules():
            if type(module) is nn.Linear:
                module.__class__ = AdaptableLinear
            if isinstance(module, AdaptableLinear):
                self._layers[name] = module

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The layers that a LoRA can change, with their (out, in) features."""
        return {
            name: (layer.out_features, layer.in_features) for name, layer in self._layers.items()
        }

    @contextmanager
    def active(self, stack: Sequence[tuple[Path, float]]) -> Iterator[None]:
        """Apply the LoRA files at their scales inside the block, and nothing after it.

        A file at scale 0 is checked like the others and changes nothing, not even a bit.
        Raises LoraNotFound, LoraInvalid before any layer is touched.
        """
        loras = [(read_lora(path, self.linears), scale) for path, scale in stack]
        adapter = compose([(lora, scale) for lora, scale in loras if scale != 0], self._device)
        try:
            for name, (down, up) in adapter.items():
                layer = self._layers[name]
                layer.adapter = (down.to(layer.weight.dtype), up.to(layer.weight.dtype))
            yield
        finally:
            for name in adapter:
                self._layers[name].adapter = None


def read_lora(path: Path, linears: Mapping[str, tuple[int, int]]) -> Lora:
    """The LoRA in `path`, every tensor of it matched to a layer of the model.

    Raises LoraNotFound, LoraInvalid.
    """
    if not path.is_file():
        raise LoraNotFound(f"The LoRA file {path.name} is gone.")
    header = lora_file.read_header(path)
    plan = lora_file.plan(header, linears, path.name)
    # Read as bytes: safetensors' own file readers leak 64 bytes per tensor (0.8.0).
    data = bytearray(path.read_bytes())
    tensors = {key: _view(data, header.data_start, info) for key, info in header.tensors.items()}
    for key, tensor in tensors.items():
        if not bool(torch.isfinite(tensor.float()).all()):
            raise LoraInvalid(f"{path.name} holds NaN or infinity in {key}.")
    return {module: _layer(tensors, layer) for module, layer in plan.items()}


def compose(stack: Sequence[tuple[Lora, float]], device: torch.device) -> Adapter:
    """One adapter, in fp32 on `device`, equal to the sum of the LoRAs at their scales."""
    pairs: dict[str, list[tuple[torch.Tensor, torch.Tensor]]] = {}
    for lora, scale in stack:
        for name, layer in lora.items():
            down = layer.down.to(device, torch.float32)
            up = layer.up.to(device, torch.float32) * (scale * layer.multiplier)
            pairs.setdefault(name, []).append((down, up))
    return {
        name: (torch.cat([down for down, _ in parts]), torch.cat([up for _, up in parts], dim=1))
        for name, parts in pairs.items()
    }


def _layer(tensors: Mapping[str, torch.Tensor], plan: lora_file.LayerPlan) -> LoraLayer:
    alpha = plan.alpha
    if isinstance(alpha, str):
        alpha = float(tensors[alpha].float())
    multiplier = 1.0 if alpha is None else alpha / plan.rank
    return LoraLayer(tensors[plan.down], tensors[plan.up], multiplier)


def _view(data: bytearray, data_start: int, info: lora_file.TensorInfo) -> torch.Tensor:
    dtype = _DTYPES[info.dtype]
    if info.start == info.end:
        return torch.empty(info.shape, dtype=dtype)
    count = (info.end - info.start) // lora_file.DTYPE_BYTES[info.dtype]
    offset = data_start + info.start
    return torch.frombuffer(data, dtype=dtype, count=count, offset=offset).view(info.shape)
