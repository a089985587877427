"""One loaded model: parameters and images in, images out."""

from collections.abc import Sequence
from pathlib import Path

import PIL.Image
import torch

from pipelines.api.errors import (
    InvalidParameter,
    LoraInvalid,
    OutOfDeviceMemory,
)
from pipelines.api.load_options import ForwardName, Offload
from pipelines.api.messages import WorkerUsage
from pipelines.api.params import EditParams, LoraRef
from pipelines.api.profiles import LoraProfile, resolve
from pipelines.engine import loading
from pipelines.engine.edit_result import EditResult
from pipelines.engine.encoding import CACHE_BYTES, EncodeCache
from pipelines.engine.loading import LoadedModel
from pipelines.engine.lora import LoraEngine
from pipelines.engine.memory import read_memory
from pipelines.engine.run import OnPreview, OnProgress, Run
from pipelines.engine.transformer import choose_forward


class EditPipeline:
    """A model on a device. Only one thread at a time may call `edit`."""

    def __init__(
        self,
        model: LoadedModel,
        device: torch.device,
        offload: Offload = Offload.NONE,
        *,
        strict_loras: bool = False,
        forward: ForwardName = ForwardName.AUTO,
        prune_last_block: bool = False,
        encoded_bytes: int = CACHE_BYTES,
    ) -> None:
        """`strict_loras` refuses LoRAs that change nothing; `encoded_bytes` bound what is kept of
        encoded prompts and references, and 0 keeps nothing. Raises ModelUnusable.
        """
        self._is_strict = strict_loras
        self.spec = model.spec
        self.device = device
        self._model = model
        self._pipe = model.pipe
        transformer = model.pipe.transformer
        self._loras = LoraEngine(transformer, device, transformer.dtype, model.pipe.text_encoder)
        self.encoded = EncodeCache(encoded_bytes)
        # After the engine is built: offloading wraps the `forward` of each layer.
        loading.place(model.pipe, device, offload)
        self.forward = choose_forward(
            model, device, forward, offload, prunes_last_block=prune_last_block
        )

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        offload: Offload = Offload.NONE,
        strict_loras: bool = False,
        forward: ForwardName = ForwardName.AUTO,
        prune_last_block: bool = False,
    ) -> "EditPipeline":
        """Load the model in `path`, a folder in the published layout. Raises ModelUnusable."""
        model, place = loading.load_model(path, dtype), torch.device(device)
        return cls(
            model,
            place,
            offload,
            strict_loras=strict_loras,
            forward=forward,
            prune_last_block=prune_last_block,
        )

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The linear layers that LoRAs can change, with their (out, in) features."""
        return self._loras.linears

    @property
    def dtype(self) -> torch.dtype:
        """The number format that the model computes in."""
        dtype: torch.dtype = self._pipe.transformer.dtype
        return dtype

    def preload(self, loras: Sequence[LoraRef]) -> None:
        """Start to read LoRA files that a later edit uses. Any thread may call this."""
        self._loras.preload([Path(lora.path) for lora in loras])

    def usage(self) -> WorkerUsage:
        """The memory of the device and of the LoRAs on it."""
        memory, loras = read_memory(self.device), self._loras.cache
        return WorkerUsage(
            str(self.device),
            memory.used_bytes,
            memory.peak_bytes,
            memory.total_bytes,
            loras.hits,
            loras.misses,
            loras.host_bytes,
            loras.device_bytes,
        )

    @torch.no_grad()
    def edit(
        self,
        params: EditParams,
        references: Sequence[PIL.Image.Image],
        on_progress: OnProgress = lambda progress: None,
        on_preview: OnPreview = lambda index, image: None,
        profiles: Sequence[LoraProfile] = (),
    ) -> EditResult:
        """Make `params.num_outputs` images from RGB references.

        LoRA paths in `params` are local files here; `profiles` are the sampling profiles of those
        with a scale above 0. `on_progress` is called at the start of each stage, after each step,
        and between the parts of long stages; an exception from it ends the edit without a trace in
        the next one. `on_preview` gets the previews of the first output, by index.
        Raises InvalidParameter, LoraNotFound, LoraInvalid, LoraOverflow, NonFiniteOutput,
        OutOfDeviceMemory.
        """
        self._check_references(references)
        stack = [(Path(lora.path), lora.scale * lora.multiplier) for lora in params.loras]
        sampling = resolve(params.sampling, params.preset_sampling, profiles, self.spec)
        run = Run(
            self._model,
            self.encoded,
            self.forward,
            self.device,
            params,
            sampling,
            references,
            on_progress,
            on_preview,
        )
        try:
            with self._loras.active(stack, run.report_load) as text_key:
                idle = self._idle(stack)
                result = run.make(text_key)
                result.warnings += idle
                return result
        except torch.OutOfMemoryError as exc:
            raise OutOfDeviceMemory(
                f"{self.device} has too little memory for this edit. Ask for a smaller size, fewer "
                f"images or lower LoRA ranks, or start the server with --offload model."
            ) from exc
        finally:
            self._pipe.maybe_free_model_hooks()

    def _idle(self, stack: Sequence[tuple[Path, float]]) -> tuple[str, ...]:
        """Warnings about files that change nothing. Raises LoraInvalid if they are not allowed."""
        warnings = tuple(
            f"{path.name} changes nothing: its weights or its alpha are zero."
            for path in self._loras.idle(stack)
        )
        if warnings and self._is_strict:
            raise LoraInvalid(warnings[0])
        return warnings

    def _check_references(self, references: Sequence[PIL.Image.Image]) -> None:
        most = self._model.family.facts.max_references
        if not 1 <= len(references) <= most:
            raise InvalidParameter(
                "images", f"must have 1 to {most} entries, got {len(references)}"
            )
