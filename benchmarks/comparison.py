"""One edit with our step loop and with diffusers' own pipeline call, on the same model."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from math import isqrt
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock
from torch import nn

from benchmarks.random_model import Architecture, build, count_parameters
from pipelines.api.model_spec import ModelSpec
from pipelines.api.params import EditParams
from pipelines.engine.lora import Adapter, LayerChange
from pipelines.engine.lora.kinds.lora import LowRank
from pipelines.engine.pipeline import EditPipeline

PROMPT = "make the circle blue"
BLANK = " "
CFG_SCALE = 4.0
SEED = 7
LORA_RANK = 192
STAGES = ("encode", "denoise", "decode")


@dataclass(slots=True)
class Measurement:
    """One edit: seconds per stage and in total, peak device memory (0 on a CPU), and the output.

    latents: the input of the VAE's decoder, (1, 16, 1, rows, columns).
    """

    seconds: dict[str, float] = field(default_factory=dict)
    total_s: float = 0.0
    peak_bytes: int = 0
    latents: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    image: PIL.Image.Image = field(default_factory=lambda: PIL.Image.new("RGB", (1, 1)))


@dataclass(frozen=True, slots=True)
class Comparison:
    """The same edit by both loops and by ours with LoRAs, each after one warm-up."""

    ours: Measurement
    stock: Measurement
    with_loras: Measurement
    steps: int
    dtype: torch.dtype
    parameters: dict[str, int]

    @property
    def latents_difference(self) -> float:
        """The largest difference, relative to the largest value."""
        theirs = self.stock.latents.float()
        difference = (self.ours.latents.float() - theirs).abs().max() / theirs.abs().max()
        return float(difference)

    @property
    def image_difference(self) -> int:
        """The largest difference of any channel of any pixel, 0 to 255."""
        ours, theirs = (np.asarray(m.image, dtype=np.int16) for m in (self.ours, self.stock))
        return int(np.abs(ours - theirs).max())


def compare(
    architecture: Architecture, device: torch.device, dtype: torch.dtype, steps: int
) -> Comparison:
    """Build the model and run the edit with both loops.

    Raises ValueError when the random weights give latents that are not finite.
    """
    model = build(architecture, device, dtype)
    # each measured edit encodes, as stock does
    pipe, pipeline = model.pipe, EditPipeline(model, device, encoded_bytes=0)
    side = isqrt(architecture.spec.output_area)
    reference = PIL.Image.merge("RGB", [_gradient(side, turn) for turn in (0, 90, 180)])
    params = EditParams(
        prompt=PROMPT,
        seed=SEED,
        negative_prompt=BLANK,
        size=(side, side),
        num_inference_steps=steps,
        true_cfg_scale=CFG_SCALE,
    )

    def edit_ours() -> PIL.Image.Image:
        return pipeline.edit(params, [reference]).images[0]

    with _stock_areas(architecture.spec):
        ours = _measure(pipe, device, edit_ours)
        theirs = _measure(pipe, device, lambda: _edit_stock(pipe, params, reference))
    with pipeline._loras.applied(_adapter(pipeline, device, dtype)):
        with_loras = _measure(pipe, device, edit_ours)
    if not torch.isfinite(ours.latents).all():
        raise ValueError("the random weights gave latents that are not finite")
    parts = ("transformer", "text_encoder", "vae")
    parameters = {part: count_parameters(getattr(pipe, part)) for part in parts}
    return Comparison(ours, theirs, with_loras, steps, dtype, parameters)


def _adapter(pipeline: EditPipeline, device: torch.device, dtype: torch.dtype) -> Adapter:
    """An adapter the size of three LoRAs of rank 64 on every block layer; it changes nothing."""
    return {
        name: LayerChange(
            LowRank(
                torch.randn(LORA_RANK, in_features, device=device, dtype=dtype),
                torch.zeros(out_features, LORA_RANK, device=device, dtype=dtype),
            )
        )
        for name, (out_features, in_features) in pipeline.linears.items()
        if name.startswith("transformer_blocks.")
    }


def _edit_stock(
    pipe: QwenImageEditPlusPipeline, params: EditParams, reference: PIL.Image.Image
) -> PIL.Image.Image:
    assert params.size is not None
    images: list[PIL.Image.Image] = pipe(
        image=[reference],
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        true_cfg_scale=params.true_cfg_scale,
        width=params.size[0],
        height=params.size[1],
        num_inference_steps=params.num_inference_steps,
        generator=torch.Generator().manual_seed(params.seed),
    ).images
    return images[0]


def _measure(
    pipe: QwenImageEditPlusPipeline, device: torch.device, edit: Callable[[], PIL.Image.Image]
) -> Measurement:
    """Run `edit` twice and measure the second run, with the same stages for both loops.

    Denoising starts at the transformer's first layer, decoding at the VAE's first decoding
    layer; each mark waits for the device's queued work.
    """
    edit()
    result = Measurement()
    marks: list[float] = []

    def mark() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        marks.append(time.perf_counter())

    def enter_transformer(module: nn.Module, args: tuple[Any, ...]) -> None:
        if len(marks) == 1:
            mark()

    def enter_decoder(module: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
        mark()
        result.latents = args[0].cpu()

    hooks = (
        pipe.transformer.img_in.register_forward_pre_hook(enter_transformer),
        pipe.vae.post_quant_conv.register_forward_pre_hook(enter_decoder),
    )
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    mark()
    result.image = edit()
    mark()
    for hook in hooks:
        hook.remove()
    if device.type == "cuda":
        result.peak_bytes = torch.cuda.max_memory_allocated(device)
    pairs = zip(STAGES, marks[:-1], marks[1:], strict=True)
    result.seconds = {stage: end - start for stage, start, end in pairs}
    result.total_s = marks[-1] - marks[0]
    return result


@contextmanager
def _stock_areas(spec: ModelSpec) -> Iterator[None]:
    """Make the stock call resize references to the areas of `spec`, which are module constants."""
    before = stock.VAE_IMAGE_SIZE, stock.CONDITION_IMAGE_SIZE
    stock.VAE_IMAGE_SIZE, stock.CONDITION_IMAGE_SIZE = spec.reference_area, spec.condition_area
    try:
        yield
    finally:
        stock.VAE_IMAGE_SIZE, stock.CONDITION_IMAGE_SIZE = before


def _gradient(side: int, degrees: int) -> PIL.Image.Image:
    return PIL.Image.linear_gradient("L").rotate(degrees).resize((side, side))
