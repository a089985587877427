"""Adapters on the linear layers of a model, removed again without a trace."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from diffusers.models.normalization import RMSNorm
from torch import nn
from torch.nn import functional

from pipelines.api.families import TEXT_ENCODER
from pipelines.engine.lora.adaptable import AdaptableLinear, AdaptableNorm
from pipelines.engine.lora.cache import DEVICE_BYTES, HOST_BYTES, LoraCache
from pipelines.engine.lora.change import LayerChange
from pipelines.engine.lora.compose import Adapter
from pipelines.engine.lora.kinds.lora import LowRank


class LoraEngine:
    """The linear layers and norms that take adapters. Not thread-safe.

    They are the transformer's and the text encoder's, the latter named with TEXT_ENCODER before.
    """

    def __init__(
        self,
        transformer: nn.Module,
        device: torch.device,
        dtype: torch.dtype,
        text_encoder: nn.Module | None = None,
        *,
        host_bytes: int = HOST_BYTES,
        device_bytes: int = DEVICE_BYTES,
    ) -> None:
        """Bound parsed files by `host_bytes` and composed adapters by `device_bytes`."""
        self._transformer = transformer
        self._device = device
        self._dtype = dtype
        self._layers: dict[str, AdaptableLinear | AdaptableNorm] = {}
        self._adapt("", transformer)
        if text_encoder is not None:
            # without its head, which no prompt embedding passes through
            self._adapt(f"{TEXT_ENCODER}model.", text_encoder.get_submodule("model"))
        self.cache = LoraCache(
            self.linears,
            self._weight_of,
            device,
            dtype,
            host_bytes=host_bytes,
            device_bytes=device_bytes,
        )

    def _adapt(self, prefix: str, component: nn.Module) -> None:
        """Make the component's layers take changes, by their names after `prefix`."""
        for name, module in component.named_modules():
            if type(module) is nn.Linear:
                module.__class__ = AdaptableLinear
            elif type(module) is RMSNorm and module.weight is not None:
                module.__class__ = AdaptableNorm
            if isinstance(module, AdaptableLinear | AdaptableNorm):
                # Set on the instance from the start: torch.compile guards on its presence.
                module.change = None
                module.scratch = None
                self._layers[prefix + name] = module

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear layers that a LoRA can change, with their (out, in) features."""
        return {
            name: (layer.out_features, layer.in_features)
            for name, layer in self._layers.items()
            if isinstance(layer, AdaptableLinear)
        }

    def preload(self, paths: Sequence[Path]) -> None:
        """Start to read files that a later job uses, in another thread."""
        self.cache.preload(paths)

    def idle(self, stack: Sequence[tuple[Path, float]]) -> list[Path]:
        """The files that change nothing, though their scale is not 0: all zero, or of alpha 0.

        Raises LoraNotFound, LoraInvalid.
        """
        return [path for path, scale in stack if scale != 0 and self.cache.is_idle(path)]

    @contextmanager
    def active(
        self, stack: Sequence[tuple[Path, float]], on_load: Callable[[], None] = lambda: None
    ) -> Iterator[Hashable]:
        """Apply the LoRA files at their scales inside the block only.

        Yields the key of the text encoder's part: files with their scales, of those that change it.
        `on_load` is called before each file is read and before they are composed.
        Raises LoraNotFound, LoraInvalid, LoraOverflow before any layer changes.
        """
        adapter, text_key = self.cache.keyed_adapter(stack, on_load)
        with self.applied(adapter):
            yield text_key

    @contextmanager
    def applied(self, adapter: Adapter) -> Iterator[None]:
        """Apply a composed adapter inside the block only."""
        if adapter and any(m._compiled_call_impl for m in self._transformer.modules()):
            adapter = self._uniform(adapter)
        scratch = self._scratch(adapter)
        try:
            for name, change in adapter.items():
                self._layers[name].change = change
                if change.recomposed:
                    self._layers[name].scratch = scratch
            yield
        finally:
            for name, change in adapter.items():
                self._layers[name].change = None
                if change.recomposed:
                    self._layers[name].scratch = None

    def _weight_of(self, name: str) -> torch.Tensor:
        """The base weight on the device, where an offloaded one is copied to."""
        weight: torch.Tensor = self._layers[name].weight
        return weight.detach().to(self._device)

    def _scratch(self, adapter: Adapter) -> torch.Tensor | None:
        """Memory for the largest weight that the adapter recomposes, for all layers in turn."""
        sizes = [self._layers[name].weight.numel() for name, c in adapter.items() if c.recomposed]
        if not sizes:
            return None
        return torch.empty(max(sizes), device=self._device, dtype=self._dtype)

    def _uniform(self, adapter: Adapter) -> Adapter:
        """The adapter in a form that torch.compile never traces again.

        Each layer has a pair, of rank 0 where the LoRAs have none, because present and absent are
        two graphs. Ranks are at least 2 and marked as dynamic: rank 1 is compiled as a constant,
        and ranks that are equal at warm-up as the same number. No two layers share a tensor, which
        is guarded too.
        """
        changes = dict(adapter)
        for name, layer in self._layers.items():
            if isinstance(layer, AdaptableNorm) or name.startswith(TEXT_ENCODER):
                continue
            change = adapter.get(name, LayerChange())
            pair = change.low_rank or LowRank(
                torch.zeros(0, layer.in_features, device=self._device, dtype=self._dtype),
                torch.zeros(layer.out_features, 0, device=self._device, dtype=self._dtype),
            )
            missing = max(0, 2 - pair.down.shape[0])
            if missing:
                pair = LowRank(
                    functional.pad(pair.down, (0, 0, 0, missing)),
                    functional.pad(pair.up, (0, missing)),
                )
            torch._dynamo.maybe_mark_dynamic(pair.down, 0)
            torch._dynamo.maybe_mark_dynamic(pair.up, 1)
            changes[name] = replace(change, low_rank=pair)
        return changes
