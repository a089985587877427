"""The worker process without torch: the real messages, signals and errors around a fake pipeline.

It runs `pipelines.worker` and replaces only the loading of the model, so its server is ready in
about a second.
"""

import argparse
import hashlib
import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import PIL.Image

from pipelines import worker
from pipelines.api.errors import LoraNotFound, ModelUnusable, NonFiniteOutput
from pipelines.api.families import FAMILIES
from pipelines.api.messages import Ready, Stage, WorkerUsage
from pipelines.api.model_spec import ModelSpec
from pipelines.api.params import EditParams, LoraRef
from pipelines.api.profiles import LoraProfile, UsedSampling, resolve
from pipelines.engine.edit_result import EditResult, Progress
from pipelines.files.architecture import read_linears
from pipelines.files.model_files import inspect_model
from pipelines.files.spec_file import read_spec

# Seconds per step at 256×256. Larger images take longer, as with a model, so that a test can
# request a job that outlasts it: 100 steps at 1024×1024 take 19 s.
STEP_S = 0.003
# Prompts of edits that go wrong after their first step. A stopped process neither reads nor sends.
HANG = "(hang)"
DEVICE_FAILURE = "(device failure)"
NON_FINITE = "(non-finite)"


class FakePipeline:
    """Returns the last reference image, tinted by a hash of every input of the model."""

    def __init__(self, model: Path) -> None:
        self.spec: ModelSpec = read_spec(model)
        try:
            self.linears = read_linears(model)
        except ModelUnusable as exc:
            raise ModelUnusable(f"The model {model.name} cannot be loaded: {exc}") from exc
        problems = inspect_model(model).problems
        if problems:
            raise ModelUnusable(f"The model {model.name} cannot be loaded: {'; '.join(problems)}")

        self._lora_files: set[str] = set()
        self._hits = 0

    def usage(self) -> WorkerUsage:
        """Report LoRA files of one byte, and a device of ten."""
        read = len(self._lora_files)
        return WorkerUsage("cpu", 5, 6, 10, self._hits, read, read, 0)

    def preload(self, loras: Sequence[LoraRef]) -> None:
        """Do nothing: the files are read when their edit runs."""

    def edit(
        self,
        params: EditParams,
        references: Sequence[PIL.Image.Image],
        on_progress: Callable[[Progress], None],
        on_preview: Callable[[int, PIL.Image.Image], None],
        profiles: Sequence[LoraProfile] = (),
    ) -> EditResult:
        """Make the outputs: equal parameters and images give equal pixels."""
        files = [lora.path for lora in params.loras]
        self._hits += sum(file in self._lora_files for file in files)
        self._lora_files.update(files)
        return _Run(self.spec, params, references, on_progress, on_preview, profiles).make()


class _Run:
    """One edit, with the stages and the progress of the real pipeline."""

    def __init__(
        self,
        spec: ModelSpec,
        params: EditParams,
        references: Sequence[PIL.Image.Image],
        on_progress: Callable[[Progress], None],
        on_preview: Callable[[int, PIL.Image.Image], None],
        profiles: Sequence[LoraProfile],
    ) -> None:
        self._params = params
        self._references = references
        self._on_progress = on_progress
        self._on_preview = on_preview
        self._can_write = spec.can_write
        self._size = params.size or FAMILIES[spec.family].sizes.auto_size(
            spec.output_area, *references[-1].size, params.bounds
        )
        self._sampling = resolve(params.sampling, params.preset_sampling, profiles, spec)
        self._steps, self._cfg_scale = self._sampling.steps, self._sampling.true_cfg_scale
        warnings = self._sampling.warnings
        self._result = EditResult(self._steps, self._cfg_scale, params.prompt, warnings=warnings)
        self._result.sampling = self._used()

    def make(self) -> EditResult:
        loras = [_lora_digest(lora) for lora in self._params.loras]
        self._prepare_prompt()
        with self._stage(Stage.ENCODE, 0):
            condition = self._condition([digest for digest in loras if digest])
        for index in range(self._params.num_outputs):
            with self._stage(Stage.DENOISE, index * self._steps):
                self._denoise(condition, index)
            with self._stage(Stage.DECODE, (index + 1) * self._steps):
                self._result.images.append(self._image(condition, index))
        return self._result

    def _used(self) -> UsedSampling:
        """The sampling, on a straight schedule where no source gives sigmas."""
        run, curve = self._sampling, self._sampling.curve
        straight = tuple(1 - step / run.steps for step in range(run.steps))
        return UsedSampling(
            run.sources,
            run.steps,
            run.true_cfg_scale,
            None if curve.sigmas else curve.shift or 1.0,
            curve.shift_terminal or None,
            curve.sigmas or straight,
        )

    def _prepare_prompt(self) -> None:
        result, limit = self._result, self._params.max_prompt_tokens
        if limit is not None and len(result.prompt.split()) > limit:
            # Each word counts as a token.
            result.prompt = " ".join(result.prompt.split()[:limit])
        if self._params.extend_prompt and self._can_write:
            with self._stage(Stage.EXTEND, 0):
                result.prompt, result.is_extended = f"{result.prompt}, in fine detail", True
        result.prompt = self._params.with_affixes(result.prompt)

    def _condition(self, loras: Sequence[bytes]) -> bytes:
        negative = (self._params.negative_prompt or " ") if self._cfg_scale > 1 else None
        values = (self._result.prompt, negative, self._steps, self._cfg_scale, loras)
        digest = hashlib.sha256(repr(values).encode())
        for image in self._references:
            digest.update(repr(image.size).encode() + image.tobytes())
        return digest.digest()

    def _denoise(self, condition: bytes, index: int) -> None:
        count = self._params.num_previews if index == 0 else 0
        previews = sorted({round(self._steps * (k + 1) / (count + 1)) for k in range(count)})
        step_s = STEP_S * (self._size[0] * self._size[1] / 256**2) ** 1.5
        for step in range(1, self._steps + 1):
            time.sleep(step_s)
            self._report(Stage.DENOISE, index * self._steps + step)
            self._fail_if_asked()
            if step in previews and step < self._steps:
                done = step / self._steps
                self._on_preview(previews.index(step), self._image(condition, index, done))

    def _fail_if_asked(self) -> None:
        match self._params.prompt:
            case prompt if prompt == HANG:
                os.kill(os.getpid(), signal.SIGSTOP)
            case prompt if prompt == DEVICE_FAILURE:
                raise RuntimeError("CUDA error: an illegal memory access\nFor debugging, …")
            case prompt if prompt == NON_FINITE:
                raise NonFiniteOutput("The model computed NaN.")

    def _image(self, condition: bytes, index: int, done: float = 1.0) -> PIL.Image.Image:
        seed = self._params.seed + index
        tint = tuple(hashlib.sha256(condition + seed.to_bytes(8)).digest()[:3])
        reference = self._references[-1].resize(self._size)
        return PIL.Image.blend(reference, PIL.Image.new("RGB", self._size, tint), done / 2)

    def _report(self, stage: Stage, step: int) -> None:
        self._on_progress(Progress(stage, step, self._steps * self._params.num_outputs))

    @contextmanager
    def _stage(self, stage: Stage, step: int) -> Iterator[None]:
        self._report(stage, step)
        start = time.perf_counter()
        yield
        seconds = self._result.seconds
        seconds[stage] = seconds.get(stage, 0.0) + time.perf_counter() - start


def _lora_digest(lora: LoraRef) -> bytes | None:
    """Hash the file and its scale. None at scale 0, where the real adapter adds nothing."""
    try:
        data = Path(lora.path).read_bytes()
    except OSError as exc:
        raise LoraNotFound(f"The LoRA file {Path(lora.path).name} is gone.") from exc
    return hashlib.sha256(data + repr(lora.scale).encode()).digest() if lora.scale else None


def load(args: argparse.Namespace) -> tuple[FakePipeline, None, Ready]:
    """Read the model's configuration in place of its weights. Raises ModelUnusable."""
    pipeline = FakePipeline(args.model)
    ready = Ready(
        pipeline.spec,
        device="cpu",
        device_name="CPU",
        dtype="float32",
        can_extend_prompts=pipeline.spec.can_write,
        checks_safety=False,
        forward="stock",
        forward_reason="a fake worker has no model",
        linears=pipeline.linears,
    )
    return pipeline, None, ready


if __name__ == "__main__":
    worker.main(load)
