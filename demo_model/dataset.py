"""Edits of drawn scenes as latents and embeddings, computed once."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import PIL.Image
import torch
from diffusers import QwenImageEditPlusPipeline
from torch import Tensor

from demo_model.edits import Edit
from demo_model.instructions import Task
from demo_model.scenes import Scene, as_image
from demo_model.styles import paint_styled
from demo_model.vae import still_images
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.model_spec import ModelSpec

# A scene and the styles that it is drawn in.
Look = tuple[Scene, tuple[str, ...]]

SIZES = QWEN_IMAGE_EDIT_PLUS.sizes
IMAGES_PER_BATCH = 32
PROMPTS_PER_BATCH = 128


@dataclass(frozen=True, slots=True)
class EditSet:
    """`count` edits with equally many source images and equally long texts, for one batch.

    Padding would need a mask, and attention with a mask takes twice the time.
    text: (count, tokens, joint_attention_dim), bfloat16. sources: (count, images) and
    target: (count,), rows of `Dataset.latents`. weight: (count,), relative frequencies.
    """

    text: Tensor
    sources: Tensor
    target: Tensor
    weight: Tensor


@dataclass(frozen=True, slots=True)
class Dataset:
    """Edits at one image size, by number of source images.

    latents: (scenes, tokens, 64), normalised and packed, bfloat16. strength: how far the targets
    are drawn towards their styles, which is the scale of a LoRA that learns them.
    """

    grid: tuple[int, int, int]
    latents: Tensor
    edits: dict[int, list[EditSet]]
    strength: float


def build_dataset(
    pipe: QwenImageEditPlusPipeline,
    spec: ModelSpec,
    size: tuple[int, int],
    edits: Sequence[Edit],
    *,
    weights: Mapping[Task, float],
    styles: tuple[str, ...] = (),
    strength: float = 1.0,
) -> Dataset:
    """Draw the edits at `size` (width, height) and encode them, the targets in `styles`.

    `weights` maps tasks to frequencies relative to how often they were drawn, 1.0 by default.
    """
    looks: list[Look] = list(
        {
            look: None
            for edit in edits
            for look in (*((scene, ()) for scene in edit.sources), (edit.target, styles))
        }
    )
    rows = {look: row for row, look in enumerate(looks)}
    latents, small = _encode_looks(pipe, spec, looks, size, strength)
    sets = {
        count: _edit_sets(pipe, edits, count, styles, weights, rows, small)
        for count in sorted({len(edit.sources) for edit in edits})
    }
    return Dataset(SIZES.grid(*size), latents, sets, strength)


@torch.no_grad()
def _encode_looks(
    pipe: QwenImageEditPlusPipeline,
    spec: ModelSpec,
    looks: Sequence[Look],
    size: tuple[int, int],
    strength: float,
) -> tuple[Tensor, list[PIL.Image.Image]]:
    """The drawn scenes' packed latents, and their small images for the text encoder."""
    latents, small = [], []
    condition_size = SIZES.area_size(spec.condition_area, *size)
    for start in range(0, len(looks), IMAGES_PER_BATCH):
        batch = looks[start : start + IMAGES_PER_BATCH]
        images = [
            as_image(paint_styled(scene, *size, *styles, strength=strength))
            for scene, styles in batch
        ]
        pixels = pipe.image_processor.preprocess(images, size[1], size[0]).unsqueeze(2)
        with still_images(), torch.autocast("cpu", torch.bfloat16):
            encoded = pipe._encode_vae_image(pixels, generator=None)
        packed = pipe._pack_latents(encoded, len(images), encoded.shape[1], *encoded.shape[3:])
        latents.append(packed.bfloat16())
        for image in images:
            small.append(pipe.image_processor.resize(image, *reversed(condition_size)))
    return torch.cat(latents), small


def _edit_sets(
    pipe: QwenImageEditPlusPipeline,
    edits: Sequence[Edit],
    count: int,
    styles: tuple[str, ...],
    weights: Mapping[Task, float],
    rows: dict[Look, int],
    small: Sequence[PIL.Image.Image],
) -> list[EditSet]:
    """The edits with `count` source images, by the length of their text."""
    chosen = [edit for edit in edits if len(edit.sources) == count]
    by_length: dict[int, list[tuple[Edit, Tensor]]] = defaultdict(list)
    for edit, text in zip(chosen, _encode_prompts(pipe, chosen, rows, small), strict=True):
        by_length[len(text)].append((edit, text))
    return [
        EditSet(
            torch.stack([text for _, text in pairs]).bfloat16(),
            torch.tensor([[rows[scene, ()] for scene in edit.sources] for edit, _ in pairs]),
            torch.tensor([rows[edit.target, styles] for edit, _ in pairs]),
            torch.tensor([weights.get(edit.task, 1.0) for edit, _ in pairs]),
        )
        for pairs in by_length.values()
    ]


def _encode_prompts(
    pipe: QwenImageEditPlusPipeline,
    edits: Sequence[Edit],
    rows: dict[Look, int],
    small: Sequence[PIL.Image.Image],
) -> list[Tensor]:
    texts: list[Tensor] = []
    for start in range(0, len(edits), PROMPTS_PER_BATCH):
        batch = edits[start : start + PROMPTS_PER_BATCH]
        images = [[small[rows[scene, ()]] for scene in edit.sources] for edit in batch]
        texts += encode_texts(pipe, [edit.prompt for edit in batch], images)
    return texts


@torch.no_grad()
def encode_texts(
    pipe: QwenImageEditPlusPipeline,
    prompts: Sequence[str],
    images: Sequence[Sequence[PIL.Image.Image]],
) -> list[Tensor]:
    """The same as `encode_prompt` of diffusers, in batches: (tokens, width) for each prompt."""
    asked = []
    for prompt, seen in zip(prompts, images, strict=True):
        labels = "".join(
            f"Picture {number}: <|vision_start|><|image_pad|><|vision_end|>"
            for number in range(1, len(seen) + 1)
        )
        asked.append(pipe.prompt_template_encode.format(labels + prompt))
    inputs = pipe.processor(
        text=asked,
        images=[image for seen in images for image in seen],
        padding=True,
        return_tensors="pt",
    )
    hidden = pipe.text_encoder(
        input_ids=inputs.input_ids,
        attention_mask=inputs.attention_mask,
        pixel_values=inputs.pixel_values,
        image_grid_thw=inputs.image_grid_thw,
        output_hidden_states=True,
    ).hidden_states[-1]
    drop = pipe.prompt_template_encode_start_idx
    return [
        states[attended][drop:]
        for states, attended in zip(hidden, inputs.attention_mask.bool(), strict=True)
    ]
