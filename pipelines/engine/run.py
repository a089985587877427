"""The stages of an edit, one after the other."""

import math
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import contextmanager

import PIL.Image
import torch

from pipelines.api.errors import NonFiniteOutput
from pipelines.api.messages import Stage
from pipelines.api.params import EditParams
from pipelines.api.profiles import RunSampling
from pipelines.engine import denoise, prompts
from pipelines.engine.edit_result import EditResult, Progress
from pipelines.engine.encoding import EncodeCache, Encoder
from pipelines.engine.loading import LoadedModel
from pipelines.engine.transformer import Forward

OnProgress = Callable[[Progress], None]
OnPreview = Callable[[int, PIL.Image.Image], None]


class Run:
    """One edit in progress: prompt, encode, then denoise and decode for each output."""

    def __init__(
        self,
        model: LoadedModel,
        encoded: EncodeCache,
        forward: Forward,
        device: torch.device,
        params: EditParams,
        sampling: RunSampling,
        references: Sequence[PIL.Image.Image],
        on_progress: OnProgress,
        on_preview: OnPreview,
    ) -> None:
        self._model = model
        self._encoded = encoded
        self._forward = forward
        self._device = device
        self._params = params
        self._sampling = sampling
        self._references = references
        self._on_progress = on_progress
        self._on_preview = on_preview
        spec, sizes = model.spec, model.family.facts.sizes
        self._result = EditResult(
            sampling.steps, sampling.true_cfg_scale, params.prompt, warnings=sampling.warnings
        )
        self._asked_size = params.size or sizes.auto_size(
            spec.output_area, *references[-1].size, params.bounds
        )
        self._size = sizes.token_size(*self._asked_size)

    def make(self, text_key: Hashable) -> EditResult:
        """Make all outputs. `text_key` is that of the active LoRAs, by `LoraEngine.active`."""
        self._prepare_prompt()
        with self._stage(Stage.ENCODE, 0):
            conditions = self._encode(text_key)
        for index in range(self._params.num_outputs):
            steps_before = index * self._result.num_inference_steps
            with self._stage(Stage.DENOISE, steps_before):
                latents = self._denoise(conditions, index)
            with self._stage(Stage.DECODE, steps_before + self._result.num_inference_steps):
                self._result.images.append(self._decode(latents))
        self._result.warnings += tuple(self._forward.notices)
        self._forward.notices.clear()
        return self._result

    def report_load(self) -> None:
        """Report that the LoRAs are being loaded."""
        self._report(Stage.LOAD, 0)

    def _prepare_prompt(self) -> None:
        result, limit = self._result, self._params.max_prompt_tokens
        if limit is not None:
            result.prompt = prompts.cut_prompt(self._model.pipe, result.prompt, limit)
        if self._params.extend_prompt and self._model.spec.can_write:
            self._extend_prompt()
        result.prompt = self._params.with_affixes(result.prompt)
        prompts.check_length(self._model, "prompt", result.prompt)
        prompts.check_length(self._model, "negative_prompt", self._params.negative_prompt or "")

    def _extend_prompt(self) -> None:
        with self._stage(Stage.EXTEND, 0):
            extended = prompts.extend_prompt(
                self._model,
                self._result.prompt,
                self._references,
                on_token=lambda: self._report(Stage.EXTEND, 0),
            )
        if extended is not None:
            self._result.prompt, self._result.is_extended = extended, True

    def _encode(self, text_key: Hashable) -> denoise.Conditions:
        encoder = Encoder(self._model, self._encoded, self._references, text_key)
        negative = None
        with self._model.family.images_seen_once(self._model.pipe):
            positive = encoder.prompt(self._result.prompt)
            if self._result.true_cfg_scale > 1:
                # The published recipe guides away from a blank prompt when none is given.
                blank = self._params.negative_prompt or " "
                self._report(Stage.ENCODE, 0)
                negative = encoder.prompt(blank)
        self._report(Stage.ENCODE, 0)
        reference_area = self._model.spec.reference_area or math.prod(self._size)
        references = encoder.references(reference_area)
        encoder.keep()
        return denoise.Conditions(positive, negative, references)

    def _denoise(self, conditions: denoise.Conditions, index: int) -> torch.Tensor:
        """The latents of output `index`."""
        pipe, family = self._model.pipe, self._model.family
        steps, seed = self._result.num_inference_steps, self._params.seed + index
        noise = family.starting_noise(pipe, self._size, seed, conditions.positive.dtype)
        count = self._params.num_previews if index == 0 else 0
        preview_steps = sorted({round(steps * (k + 1) / (count + 1)) for k in range(count)})

        def step_done(step: int, estimate: Callable[[], torch.Tensor]) -> None:
            self._report(Stage.DENOISE, index * steps + step)
            if step in preview_steps and step < steps:
                self._on_preview(preview_steps.index(step), self._decode(estimate()))

        schedule = family.schedule(pipe, steps, noise.shape[1], self._sampling.curve)
        used = self._result.sampling = schedule.used(self._sampling)
        latents = denoise.denoise(
            self._model,
            self._forward.predictor(self._model, used.sigmas, noise.dtype),
            schedule.scheduler,
            noise,
            family.facts.sizes.grid(*self._size),
            conditions,
            cfg_scale=self._result.true_cfg_scale,
            on_step=step_done,
        )
        # once per output: the check waits for the device, which would cost time at each step
        if not torch.isfinite(latents).all():
            raise NonFiniteOutput(
                f"The model computed NaN or infinity for seed {seed}, which makes no image. Try "
                f"other LoRA scales, or start the server with --dtype bfloat16 or float32."
            )
        return latents

    def _decode(self, latents: torch.Tensor) -> PIL.Image.Image:
        image = self._model.family.decode(self._model.pipe, latents, self._size)
        return _crop_centred(image, self._asked_size)

    def _report(self, stage: Stage, step: int) -> None:
        total = self._result.num_inference_steps * self._params.num_outputs
        self._on_progress(Progress(stage, step, total))

    @contextmanager
    def _stage(self, stage: Stage, step: int) -> Iterator[None]:
        """Report that a stage begins, and add its seconds, the device's queued work included."""
        self._report(stage, step)
        start = time.perf_counter()
        yield
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
        seconds = self._result.seconds
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def _crop_centred(image: PIL.Image.Image, size: tuple[int, int]) -> PIL.Image.Image:
    """The middle of an image of whole tokens, in exactly the size that was asked for."""
    left, top = (image.width - size[0]) // 2, (image.height - size[1]) // 2
    return image.crop((left, top, left + size[0], top + size[1]))
