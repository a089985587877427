"""Bounded caches of parsed LoRAs in host memory and of composed adapters on the device."""

import contextlib
import os
import threading
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from pipelines.api.errors import LoraNotFound
from pipelines.api.families import TEXT_ENCODER, Linears
from pipelines.engine.bounded_cache import BoundedCache
from pipelines.engine.lora.compose import Adapter, WeightOf, compose, size_bytes
from pipelines.engine.lora.tensors import Lora, read_lora
from pipelines.files.lora_format.config import PEFT_CONFIG, PEFT_WEIGHTS

HOST_BYTES = 8 * 2**30
# Three LoRAs of rank 64 on every layer take 3.5 GB.
DEVICE_BYTES = 4 * 2**30


class LoraCache:
    """The adapters of stacks of LoRA files; each file is read once while it is unchanged.

    One thread reads files, so those of the next job load while the model works on this one. The
    model's thread composes.
    """

    def __init__(
        self,
        linears: Linears,
        weight_of: WeightOf,
        device: torch.device,
        dtype: torch.dtype,
        *,
        host_bytes: int = HOST_BYTES,
        device_bytes: int = DEVICE_BYTES,
    ) -> None:
        self._linears = linears
        self._weight_of = weight_of
        self._device = device
        self._dtype = dtype
        self._loras: BoundedCache[Lora] = BoundedCache(host_bytes, lambda lora: lora.size_bytes)
        self._adapters: BoundedCache[Adapter] = BoundedCache(device_bytes, size_bytes)
        self._reader = ThreadPoolExecutor(1, thread_name_prefix="lora-reader")
        self._reading: dict[Hashable, Future[Lora]] = {}
        self._lock = threading.Lock()
        # of the files that `adapter` was asked for
        self.hits = 0
        self.misses = 0

    @property
    def host_bytes(self) -> int:
        """The size of the parsed files."""
        with self._lock:
            return self._loras.total_bytes

    @property
    def device_bytes(self) -> int:
        """The size of the composed adapters."""
        return self._adapters.total_bytes

    def preload(self, paths: Sequence[Path]) -> None:
        """Start to read these files; errors are raised when the LoRA is used."""
        for path in paths:
            with contextlib.suppress(LoraNotFound):
                self._future(path)

    def adapter(
        self, stack: Sequence[tuple[Path, float]], on_load: Callable[[], None] = lambda: None
    ) -> Adapter:
        """The adapter of the files at their scales: `keyed_adapter` without the key."""
        return self.keyed_adapter(stack, on_load)[0]

    def keyed_adapter(
        self, stack: Sequence[tuple[Path, float]], on_load: Callable[[], None] = lambda: None
    ) -> tuple[Adapter, Hashable]:
        """The adapter of the files at their scales, and the key of its text encoder's part.

        Stacks with the same key change the text encoder alike; `()` leaves it as it is.
        Raises LoraNotFound, LoraInvalid, LoraOverflow.

        A file at scale 0 is read and validated like the others, and adds nothing. `on_load` is
        called before each wait for a file and before the files are composed.
        """
        # Before the files are read: a key of the file that one replaces never comes again.
        identities = [_identity(path) for path, _ in stack]
        futures = [self._future(path) for path, _ in stack]
        in_memory = sum(future.done() for future in futures)
        self.hits += in_memory
        self.misses += len(futures) - in_memory
        scales = [scale for _, scale in stack]
        key = _key(identities, scales)
        composed = self._adapters.get(key)
        loras = []
        for future in futures:
            on_load()
            loras.append(future.result())
        if composed is None:
            on_load()
            wanted = [(lora, scale) for lora, scale in zip(loras, scales, strict=True) if scale]
            composed = compose(wanted, self._weight_of, self._device, self._dtype)
            self._adapters.put(key, composed)
        text_scales = [
            scale if any(name.startswith(TEXT_ENCODER) for name in lora.plan.layers) else 0
            for lora, scale in zip(loras, scales, strict=True)
        ]
        return composed, _key(identities, text_scales)

    def is_idle(self, path: Path) -> bool:
        """Return whether the file changes nothing. Raises LoraNotFound, LoraInvalid."""
        return self._future(path).result().is_idle

    def _future(self, path: Path) -> "Future[Lora]":
        """The LoRA from the cache, from a read in progress, or from a new one."""
        key = _identity(path)
        with self._lock:
            lora = self._loras.get(key)
            if lora is not None:
                done: Future[Lora] = Future()
                done.set_result(lora)
                return done
            if key not in self._reading:
                self._reading[key] = self._reader.submit(self._read, key, path)
            return self._reading[key]

    def _read(self, key: Hashable, path: Path) -> Lora:
        try:
            lora = read_lora(path, self._linears, pinned=self._device.type == "cuda")
            with self._lock:
                self._loras.put(key, lora)
            return lora
        finally:
            with self._lock:
                self._reading.pop(key, None)


def _key(identities: Sequence[Hashable], scales: Sequence[float]) -> Hashable:
    """The key of the files whose scale is not 0."""
    pairs = zip(identities, scales, strict=True)
    return tuple((identity, scale) for identity, scale in pairs if scale != 0)


def _identity(path: Path) -> Hashable:
    """The key of the file's current contents; a replaced file has another."""
    try:
        stat = path.stat()
    except OSError as exc:
        raise LoraNotFound(f"The LoRA file {path.name} is gone.") from exc
    return str(path), *_version(stat), *_config_version(path)


def _version(stat: os.stat_result) -> tuple[int, int, int]:
    return stat.st_size, stat.st_mtime_ns, stat.st_ino


def _config_version(path: Path) -> tuple[int, ...]:
    """The version of PEFT's configuration beside the file, which is a part of the LoRA."""
    beside = path.with_name(PEFT_CONFIG)
    if path.name != PEFT_WEIGHTS or not beside.is_file():
        return ()
    return _version(beside.stat())
