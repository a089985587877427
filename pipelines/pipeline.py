"""One loaded model: parameters and pictures in, pictures out."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image
import torch
from diffusers import QwenImageEditPlusPipeline

from pipelines import denoise, loading
from pipelines.errors import OutOfDeviceMemory
from pipelines.loading import Offload
from pipelines.lora import LoraEngine
from pipelines.messages import Stage
from pipelines.model_spec import ModelSpec, read_spec
from pipelines.params import EditParams, LoraRef
from pipelines.sizes import auto_size, token_size


@dataclass(frozen=True, slots=True)
class Progress:
    """`step` of `total` denoising steps are done, over all outputs."""

    stage: Stage
    step: int
    total: int


@dataclass(slots=True)
class EditResult:
    """The outputs in order, seconds per stage, and the values the model filled in."""

    num_inference_steps: int
    true_cfg_scale: float
    images: list[PIL.Image.Image] = field(default_factory=list)
    seconds: dict[Stage, float] = field(default_factory=dict)


class EditPipeline:
    """A model on a device. Not thread-safe: one thread at a time may call `edit`."""

    def __init__(
        self,
        pipe: QwenImageEditPlusPipeline,
        spec: ModelSpec,
        device: torch.device,
        offload: Offload = Offload.NONE,
    ) -> None:
        self.spec = spec
        self.device = device
        self._pipe = pipe
        self._loras = LoraEngine(pipe.transformer, device, pipe.transformer.dtype)
        # After the engine: offloading replaces the `forward` of each layer by one that calls it.
        loading.place(pipe, device, offload)

    @classmethod
    def load(
        cls,
        path: Path,
        *,
        device: torch.device | str,
        dtype: torch.dtype,
        offload: Offload = Offload.NONE,
    ) -> "EditPipeline":
        """Load the model in `path`, a directory in the published layout. Raises ModelUnusable."""
        device = torch.device(device)
        spec = read_spec(path)
        return cls(loading.load_components(path, dtype), spec, device, offload)

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """The transformer's linear layers, which LoRAs can change, with (out, in) features."""
        return self._loras.linears

    @property
    def dtype(self) -> torch.dtype:
        """What the model computes in."""
        dtype: torch.dtype = self._pipe.transformer.dtype
        return dtype

    def preload(self, loras: Sequence[LoraRef]) -> None:
        """Begin to read these LoRA files: a later edit wants them. Any thread may call this."""
        self._loras.preload([Path(lora.path) for lora in loras])

    @torch.no_grad()
    def edit(
        self,
        params: EditParams,
        references: Sequence[PIL.Image.Image],
        on_progress: Callable[[Progress], None] = lambda progress: None,
    ) -> EditResult:
        """Make `params.num_outputs` pictures from one to three RGB references.

        LoRA paths in `params` are local files here. `on_progress` is called at the start of each
        stage and after each step; what it raises ends the edit and leaves no trace in the next
        one. Raises InvalidParameter, LoraNotFound, LoraInvalid, OutOfDeviceMemory.
        """
        stack = [(Path(lora.path), lora.scale) for lora in params.loras]
        try:
            with self._loras.active(stack):
                return self._edit(params, references, on_progress)
        except torch.OutOfMemoryError as exc:
            raise OutOfDeviceMemory(
                f"{self.device} has too little memory for this edit. Ask for a smaller size, fewer "
                f"pictures or lower LoRA ranks, or start the server with --offload model."
            ) from exc
        finally:
            self._pipe.maybe_free_model_hooks()

    def _edit(
        self,
        params: EditParams,
        references: Sequence[PIL.Image.Image],
        on_progress: Callable[[Progress], None],
    ) -> EditResult:
        asked = params.size or auto_size(
            self.spec.output_area, *references[-1].size, bounds=params.bounds
        )
        size = token_size(*asked)
        result = EditResult(
            params.num_inference_steps or self.spec.num_inference_steps,
            self.spec.true_cfg_scale if params.true_cfg_scale is None else params.true_cfg_scale,
        )
        steps = result.num_inference_steps
        total = steps * params.num_outputs

        on_progress(Progress(Stage.ENCODE, 0, total))
        with self._timed(result, Stage.ENCODE):
            conditions = self._encode(params, references, cfg=result.true_cfg_scale > 1)
        for index in range(params.num_outputs):
            done = index * steps

            def step_done(step: int, done: int = done) -> None:
                on_progress(Progress(Stage.DENOISE, done + step, total))

            step_done(0)
            with self._timed(result, Stage.DENOISE):
                latents = denoise.denoise(
                    self._pipe,
                    conditions,
                    size,
                    steps=steps,
                    cfg_scale=result.true_cfg_scale,
                    seed=params.seed + index,
                    on_step=step_done,
                )
            on_progress(Progress(Stage.DECODE, done + steps, total))
            with self._timed(result, Stage.DECODE):
                picture = denoise.decode(self._pipe, latents, size)
                result.images.append(_crop_centred(picture, asked))
        return result

    def _encode(
        self, params: EditParams, references: Sequence[PIL.Image.Image], *, cfg: bool
    ) -> denoise.Conditions:
        pipe, spec = self._pipe, self.spec
        positive = denoise.encode_prompt(pipe, params.prompt, references, spec)
        negative = None
        if cfg:
            # The published recipe guides away from a blank prompt when none is given.
            blank = params.negative_prompt or " "
            negative = denoise.encode_prompt(pipe, blank, references, spec)
        return denoise.Conditions(
            positive, negative, denoise.encode_references(pipe, references, spec)
        )

    @contextmanager
    def _timed(self, result: EditResult, stage: Stage) -> Iterator[None]:
        """Add the seconds of the block to `stage`, the device's queued work included."""
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        result.seconds[stage] = result.seconds.get(stage, 0.0) + time.perf_counter() - start


def _crop_centred(picture: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """The middle of the picture: the model works in multiples of 16, the client gets its pixels."""
    left, top = (picture.width - size[0]) // 2, (picture.height - size[1]) // 2
    return picture.crop((left, top, left + size[0], top + size[1]))
