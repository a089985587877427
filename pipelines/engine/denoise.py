"""The step loop: encode, denoise, decode over the components of diffusers' pipeline object.

Equal to `QwenImageEditPlusPipeline.__call__` at the same settings (`tests/pipelines` proves it).
Our own, because the stock call has no cancel that leaves nothing behind, encodes everything anew
for each output, and keeps its schedule in the shared pipeline object.
"""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_shift
from diffusers.utils.torch_utils import randn_tensor

from pipelines.api.errors import InvalidParameter
from pipelines.api.model_spec import ModelSpec
from pipelines.api.sizes import PIXELS_PER_TOKEN, area_size

# RoPE ends at 4,096 positions; the template and three images take about 800 of them.
MAX_PROMPT_TOKENS = 2048


@dataclass(frozen=True, slots=True)
class References:
    """The input images, as the transformer wants them.

    latents: (1, tokens, 64), all images one behind the other. grids: (1, rows, columns) of
    16×16-pixel tokens, one per image.
    """

    latents: torch.Tensor
    grids: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all outputs of an edit share. `negative` is None when there is no CFG.

    positive, negative: (1, tokens, joint_attention_dim).
    """

    positive: torch.Tensor
    negative: torch.Tensor | None
    references: References


def encode_prompt(
    pipe: QwenImageEditPlusPipeline,
    prompt: str,
    images: Sequence[PIL.Image.Image],
    spec: ModelSpec,
) -> torch.Tensor:
    """The text encoder's last hidden state for the prompt, seeing the images.

    Raises InvalidParameter when the prompt has more tokens than the model has positions for.
    """
    count = len(pipe.tokenizer(prompt)["input_ids"])
    if count > MAX_PROMPT_TOKENS:
        raise InvalidParameter(
            "prompt", f"must have at most {MAX_PROMPT_TOKENS} tokens, got {count}"
        )
    sized = []
    for image in images:
        width, height = area_size(spec.condition_area, *image.size)
        sized.append(pipe.image_processor.resize(image, height, width))
    embeds: torch.Tensor
    embeds, _ = pipe.encode_prompt(prompt, image=sized, device=pipe._execution_device)
    return embeds


def encode_references(
    pipe: QwenImageEditPlusPipeline, images: Sequence[PIL.Image.Image], area: int
) -> References:
    """The images, of about `area` pixels, through the VAE: the most likely latents, no noise."""
    latents, grids = [], []
    for image in images:
        width, height = area_size(area, *image.size)
        pixels = pipe.image_processor.preprocess(image, height, width).unsqueeze(2)
        pixels = pixels.to(pipe._execution_device, pipe.vae.dtype)
        encoded = pipe._encode_vae_image(pixels, generator=None)
        latents.append(pipe._pack_latents(encoded, 1, encoded.shape[1], *encoded.shape[3:]))
        grids.append((1, height // PIXELS_PER_TOKEN, width // PIXELS_PER_TOKEN))
    return References(torch.cat(latents, dim=1), tuple(grids))


def denoise(
    pipe: QwenImageEditPlusPipeline,
    conditions: Conditions,
    size: tuple[int, int],
    *,
    steps: int,
    cfg_scale: float,
    seed: int,
    on_step: Callable[[int, Callable[[], torch.Tensor]], None],
) -> torch.Tensor:
    """From noise to packed latents (1, tokens, 64) of an image of `size` (multiples of 16).

    `on_step(k, estimate)` is called after step k of `steps`; what it raises ends the loop.
    `estimate()` gives the latents that the loop would end at if it went straight on from there.
    """
    grid = (1, size[1] // PIXELS_PER_TOKEN, size[0] // PIXELS_PER_TOKEN)
    latents = starting_noise(pipe, grid, seed, conditions.positive.dtype)
    scheduler = schedule(pipe, steps, image_tokens=latents.shape[1])
    img_shapes = [[grid, *conditions.references.grids]]

    def predict(prompt_embeds: torch.Tensor, context: str, timestep: torch.Tensor) -> torch.Tensor:
        with pipe.transformer.cache_context(context):
            prediction = pipe.transformer(
                hidden_states=torch.cat([latents, conditions.references.latents], dim=1),
                timestep=timestep,
                encoder_hidden_states=prompt_embeds,
                encoder_hidden_states_mask=None,
                img_shapes=img_shapes,
                return_dict=False,
            )[0]
        velocity: torch.Tensor = prediction[:, : latents.shape[1]]
        return velocity

    for index, moment in enumerate(scheduler.timesteps):
        timestep = moment.expand(1).to(latents.dtype) / scheduler.config.num_train_timesteps
        velocity = predict(conditions.positive, "cond", timestep)
        if conditions.negative is not None:
            negative = predict(conditions.negative, "uncond", timestep)
            velocity = guide(velocity, negative, cfg_scale)
        latents = scheduler.step(velocity, moment, latents, return_dict=False)[0]
        rest = scheduler.sigmas[index + 1]
        on_step(index + 1, functools.partial(_straight_on, latents, velocity, rest))
    return latents


def _straight_on(
    latents: torch.Tensor, velocity: torch.Tensor, noise_left: torch.Tensor
) -> torch.Tensor:
    """The noise-free latents if the velocity stayed: a flow leads straight to the image."""
    return (latents.float() - noise_left.to(latents.device) * velocity.float()).to(latents.dtype)


def guide(positive: torch.Tensor, negative: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance, rescaled per token to the length of the positive prediction."""
    combined = negative + scale * (positive - negative)
    length = torch.norm(positive, dim=-1, keepdim=True)
    rescaled: torch.Tensor = combined * (length / torch.norm(combined, dim=-1, keepdim=True))
    return rescaled


def starting_noise(
    pipe: QwenImageEditPlusPipeline, grid: tuple[int, int, int], seed: int, dtype: torch.dtype
) -> torch.Tensor:
    """Packed noise drawn on the CPU, so that a seed means the same on every device."""
    channels = pipe.transformer.config.in_channels // 4
    rows, columns = 2 * grid[1], 2 * grid[2]
    noise = randn_tensor(
        (1, 1, channels, rows, columns),
        generator=torch.Generator("cpu").manual_seed(seed),
        device=pipe._execution_device,
        dtype=dtype,
    )
    packed: torch.Tensor = pipe._pack_latents(noise, 1, channels, rows, columns)
    return packed


def schedule(
    pipe: QwenImageEditPlusPipeline, steps: int, image_tokens: int
) -> FlowMatchEulerDiscreteScheduler:
    """A scheduler of the model's kind for one denoising run: it holds the run's state."""
    config = pipe.scheduler.config
    shift = calculate_shift(
        image_tokens,
        config.base_image_seq_len,
        config.max_image_seq_len,
        config.base_shift,
        config.max_shift,
    )
    scheduler = type(pipe.scheduler).from_config(config)
    sigmas = np.linspace(1.0, 1 / steps, steps)
    scheduler.set_timesteps(sigmas=sigmas, device=pipe._execution_device, mu=shift)
    # told where it begins, the scheduler need not look its first timestep up on the device
    scheduler.set_begin_index(0)
    return scheduler


def decode(
    pipe: QwenImageEditPlusPipeline, latents: torch.Tensor, size: tuple[int, int]
) -> PIL.Image.Image:
    """The image of `size` (width, height) that the packed latents stand for."""
    config = pipe.vae.config
    unpacked = pipe._unpack_latents(latents, size[1], size[0], pipe.vae_scale_factor)
    unpacked = unpacked.to(pipe.vae.dtype)
    shape = (1, config.z_dim, 1, 1, 1)
    mean = torch.tensor(config.latents_mean).view(shape).to(unpacked)
    # divided by the inverse, not multiplied: in bf16 that is not the same, and stock divides
    inverse_std = 1.0 / torch.tensor(config.latents_std).view(shape).to(unpacked)
    pixels = pipe.vae.decode(unpacked / inverse_std + mean, return_dict=False)[0][:, :, 0]
    images: list[PIL.Image.Image] = pipe.image_processor.postprocess(pixels, output_type="pil")
    return images[0]
