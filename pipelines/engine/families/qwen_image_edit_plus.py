"""Qwen-Image-Edit-Plus over the components of diffusers' QwenImageEditPlusPipeline.

Equal to that pipeline's own call at the same settings; `tests/pipelines` compares the images.
"""

import math
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from diffusers import FlowMatchEulerDiscreteScheduler, QwenImageEditPlusPipeline
from diffusers.pipelines.qwenimage.pipeline_qwenimage_edit_plus import calculate_shift
from diffusers.utils.torch_utils import randn_tensor
from transformers import Qwen2VLProcessor

from pipelines.api import families as facts
from pipelines.api.sampling import Sampling
from pipelines.engine.families import qwen2_5_vl, vae_frames
from pipelines.engine.families.family import (
    EngineFamily,
    ForwardInputs,
    Images,
    References,
    Rewriting,
    Schedule,
    Size,
)

SIZES = facts.QWEN_IMAGE_EDIT_PLUS.sizes

# A scheduler that runs explicit sigmas as they are.
_AS_GIVEN = {
    "use_dynamic_shifting": False,
    "shift": 1.0,
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}

REWRITING = Rewriting(
    instruction=(
        "You prepare instructions for an image editor that cannot ask back. You see the pictures "
        "it will work on; they are called Picture 1, Picture 2 and so on, in the order you see "
        "them. Rewrite the user's instruction so that it says exactly what is meant, in the "
        "language the user wrote in. Keep the intent. Text that shall appear in the picture stands "
        "in quotation marks, letter by letter as the user gave it. With several pictures, say from "
        "which one each element comes. People keep their face, hair, age and figure unless the "
        "user wants them changed. Describe place, size, colour and style where the instruction or "
        "the pictures determine them. Add no object, no style and no change that was not asked "
        "for. Answer with the new instruction alone, in one paragraph of at most 120 words."
    ),
    image_label="Picture {number}: ",
    end="<|im_end|>",
)


class ImageOnlyQwen2VLProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """Qwen2VLProcessor without its video processor, the only part that needs torchvision."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


def load_components(path: Path) -> dict[str, object]:
    """The processor of the model in `path`, without its video half."""
    return {"processor": ImageOnlyQwen2VLProcessor.from_pretrained(path / "processor")}


def repair(pipe: QwenImageEditPlusPipeline) -> None:
    """Give image tokens their positions, and leave out logits and frames that nothing reads."""
    qwen2_5_vl.pass_image_token_types(pipe.text_encoder)
    qwen2_5_vl.compute_last_logits_only(pipe.text_encoder)
    vae_frames.compute_images_in_two_dimensions(pipe.vae)


def images_seen_once(pipe: QwenImageEditPlusPipeline) -> AbstractContextManager[None]:
    """Run the vision tower once for all prompts inside the block."""
    return qwen2_5_vl.images_seen_once(pipe.text_encoder)


def encode_prompt(
    pipe: QwenImageEditPlusPipeline, prompt: str, images: Images, area: int
) -> torch.Tensor:
    """The text encoder's last hidden state for the prompt, which sees the images."""
    sized = []
    for image in images:
        width, height = SIZES.area_size(area, *image.size)
        sized.append(pipe.image_processor.resize(image, height, width))
    embeds: torch.Tensor
    embeds, _ = pipe.encode_prompt(prompt, image=sized, device=pipe._execution_device)
    return embeds


def encode_references(pipe: QwenImageEditPlusPipeline, images: Images, area: int) -> References:
    """The images through the VAE: the most likely latents, without noise."""
    latents, grids = [], []
    for image in images:
        width, height = SIZES.area_size(area, *image.size)
        pixels = pipe.image_processor.preprocess(image, height, width).unsqueeze(2)
        pixels = pixels.to(pipe._execution_device, pipe.vae.dtype)
        encoded = pipe._encode_vae_image(pixels, generator=None)
        latents.append(pipe._pack_latents(encoded, 1, encoded.shape[1], *encoded.shape[3:]))
        grids.append(SIZES.grid(width, height))
    return References(torch.cat(latents, dim=1), tuple(grids))


def starting_noise(
    pipe: QwenImageEditPlusPipeline, size: Size, seed: int, dtype: torch.dtype
) -> torch.Tensor:
    """Packed noise drawn on the CPU, so that a seed means the same on every device."""
    _, rows, columns = SIZES.grid(*size)
    # the transformer's tokens are 2×2 latents
    channels = pipe.transformer.config.in_channels // 4
    noise = randn_tensor(
        (1, 1, channels, 2 * rows, 2 * columns),
        generator=torch.Generator("cpu").manual_seed(seed),
        device=pipe._execution_device,
        dtype=dtype,
    )
    packed: torch.Tensor = pipe._pack_latents(noise, 1, channels, 2 * rows, 2 * columns)
    return packed


def schedule(
    pipe: QwenImageEditPlusPipeline, steps: int, image_tokens: int, curve: Sampling
) -> Schedule:
    """A scheduler of the model's own kind, shifted for the number of output tokens or by `curve`.

    A static shift is diffusers' exponential shift by its logarithm.
    """
    config = pipe.scheduler.config
    changes: dict[str, object] = {}
    sigmas = np.linspace(1.0, 1 / steps, steps)
    mu = calculate_shift(
        image_tokens,
        config.base_image_seq_len,
        config.max_image_seq_len,
        config.base_shift,
        config.max_shift,
    )
    if curve.sigmas is not None:
        sigmas, mu, changes = np.array(curve.sigmas), None, dict(_AS_GIVEN)
    if curve.shift is not None:
        changes |= {"use_dynamic_shifting": True, "time_shift_type": "exponential"}
        mu = math.log(curve.shift)
    if curve.shift_terminal is not None:
        changes["shift_terminal"] = curve.shift_terminal or None
    scheduler = type(pipe.scheduler).from_config(config, **changes)
    scheduler.set_timesteps(sigmas=sigmas, device=pipe._execution_device, mu=mu)
    # otherwise the scheduler looks its first timestep up on the device, which waits for it
    scheduler.set_begin_index(0)
    shift = None if curve.sigmas is not None else _shift(scheduler, mu)
    return Schedule(scheduler, shift, scheduler.config.shift_terminal)


def _shift(scheduler: FlowMatchEulerDiscreteScheduler, mu: float) -> float:
    config = scheduler.config
    if not config.use_dynamic_shifting:
        return float(config.shift)
    return math.exp(mu) if config.time_shift_type == "exponential" else mu


def predict(pipe: QwenImageEditPlusPipeline, inputs: ForwardInputs) -> torch.Tensor:
    """The velocity: the references follow the output in one sequence, and their part is cut off."""
    prediction = pipe.transformer(
        hidden_states=inputs.tokens,
        timestep=inputs.timestep,
        encoder_hidden_states=inputs.prompt_embeds,
        encoder_hidden_states_mask=None,
        img_shapes=[list(inputs.grids)],
        return_dict=False,
    )[0]
    velocity: torch.Tensor = prediction[:, : inputs.latents.shape[1]]
    return velocity


def guide(positive: torch.Tensor, negative: torch.Tensor, scale: float) -> torch.Tensor:
    """Classifier-free guidance, rescaled per token to the length of the positive prediction."""
    combined = negative + scale * (positive - negative)
    length = torch.norm(positive, dim=-1, keepdim=True)
    rescaled: torch.Tensor = combined * (length / torch.norm(combined, dim=-1, keepdim=True))
    return rescaled


def decode(pipe: QwenImageEditPlusPipeline, latents: torch.Tensor, size: Size) -> PIL.Image.Image:
    """The image that the packed latents stand for, of `size` in whole tokens."""
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


QWEN_IMAGE_EDIT_PLUS = EngineFamily(
    facts=facts.QWEN_IMAGE_EDIT_PLUS,
    pipeline_class=QwenImageEditPlusPipeline,
    load_components=load_components,
    repair=repair,
    images_seen_once=images_seen_once,
    encode_prompt=encode_prompt,
    encode_references=encode_references,
    starting_noise=starting_noise,
    schedule=schedule,
    predict=predict,
    guide=guide,
    decode=decode,
    rewriting=REWRITING,
)
