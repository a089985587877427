"""The text encoder's shortcuts give the embeddings of diffusers' own `encode_prompt`."""

import itertools
from pathlib import Path

import PIL.Image
import pytest
import torch
from diffusers import QwenImageEditPlusPipeline

from pipelines.api.params import EditParams, LoraRef
from pipelines.engine import loading
from pipelines.engine.families import qwen2_5_vl
from pipelines.engine.families.qwen_image_edit_plus import SIZES, load_components
from pipelines.engine.loading import LoadedModel
from pipelines.engine.pipeline import EditPipeline
from tests.conftest import TINY_SPEC, gradient
from tests.lora_files import random_pairs, write_lora

PROMPTS = ("make the circle blue", " ", "a longer prompt, in other words: 把圆变成蓝色")
IMAGES = tuple(gradient(90 + 30 * index, 64, shift=20 * index) for index in range(3))
VISION_LAYER = "text_encoder.model.visual.blocks.0.attn.qkv"


def stock_pipeline(path: Path, dtype: torch.dtype) -> QwenImageEditPlusPipeline:
    """diffusers' pipeline, which needs the token types to place images at all."""
    pipe = QwenImageEditPlusPipeline.from_pretrained(path, dtype=dtype, **load_components(path))
    qwen2_5_vl.pass_image_token_types(pipe.text_encoder)
    return pipe


def ours(model: LoadedModel, prompt: str, *images: PIL.Image.Image) -> torch.Tensor:
    return model.family.encode_prompt(model.pipe, prompt, images, TINY_SPEC.condition_area)


class VisionCalls:
    """Counts the runs of a vision tower."""

    def __init__(self, model: LoadedModel) -> None:
        self.count = 0
        model.pipe.text_encoder.model.visual.register_forward_pre_hook(self._add)

    def _add(self, *_: object) -> None:
        self.count += 1


@pytest.fixture
def model(tiny_model: Path) -> LoadedModel:
    return loading.load_model(tiny_model, torch.float32)


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_embeddings_have_the_bits_of_diffusers(
    tiny_model: Path, dtype: torch.dtype, count: int
) -> None:
    model, stock = loading.load_model(tiny_model, dtype), stock_pipeline(tiny_model, dtype)
    calls, images = VisionCalls(model), IMAGES[:count]
    sized = [
        stock.image_processor.resize(
            image, *reversed(SIZES.area_size(TINY_SPEC.condition_area, *image.size))
        )
        for image in images
    ]

    with model.family.images_seen_once(model.pipe):
        found = [ours(model, prompt, *images) for prompt in PROMPTS]

    assert calls.count == 1
    for embeds, prompt in zip(found, PROMPTS, strict=True):
        expected, _ = stock.encode_prompt(prompt, image=sized)
        assert embeds.dtype is dtype
        assert torch.equal(embeds, expected)


@torch.no_grad()
def test_other_images_in_the_block_run_the_vision_tower_again(model: LoadedModel) -> None:
    calls = VisionCalls(model)
    # the same sizes, other pixels; and another number
    sets = ((gradient(),), (gradient(shift=9),), (gradient(), gradient()))
    alone = [ours(model, "a", *images) for images in sets]
    before = calls.count

    with model.family.images_seen_once(model.pipe):
        found = [ours(model, "a", *images) for images in sets]

    assert calls.count == before + 3
    assert all(map(torch.equal, found, alone))
    assert not torch.equal(alone[0], alone[1])


@torch.no_grad()
def test_nothing_is_shared_after_the_block(model: LoadedModel) -> None:
    calls = VisionCalls(model)

    def canceled() -> None:
        with model.family.images_seen_once(model.pipe):
            ours(model, "a", *IMAGES)
            raise InterruptedError

    with pytest.raises(InterruptedError):
        canceled()

    assert "get_image_features" not in vars(model.pipe.text_encoder.model)
    ours(model, "a", *IMAGES)
    with model.family.images_seen_once(model.pipe):
        ours(model, "a", *IMAGES)
    assert calls.count == 3


@torch.no_grad()
def test_logits_are_those_of_the_last_token(model: LoadedModel) -> None:
    seen: list[int] = []
    head = model.pipe.text_encoder.lm_head
    head.register_forward_pre_hook(lambda _, args: seen.append(args[0].shape[1]))
    inputs = model.pipe.tokenizer("a b c", return_tensors="pt")

    one, two = (
        model.pipe.text_encoder(**inputs, **options).logits
        for options in ({}, {"logits_to_keep": 2})
    )

    assert seen == [1, 2]
    torch.testing.assert_close(one, two[:, -1:])


def test_edits_under_vision_loras_see_the_images_again(tiny_model: Path, tmp_path: Path) -> None:
    model = loading.load_model(tiny_model, torch.float32)
    calls = VisionCalls(model)
    pipeline = EditPipeline(model, torch.device("cpu"))
    pairs = random_pairs(pipeline.linears, [VISION_LAYER])
    path = write_lora(tmp_path / "a.safetensors", pairs, prefix="")

    def image(*loras: LoraRef) -> bytes:
        params = EditParams(
            prompt="a", seed=1, size=(256, 256), num_inference_steps=2, loras=tuple(loras)
        )
        return pipeline.edit(params, [gradient()]).images[0].tobytes()

    images = [image(), image(LoraRef(str(path), 1.0)), image(LoraRef(str(path), 0.5))]

    assert calls.count == 3
    assert all(one != other for one, other in itertools.combinations(images, 2))
