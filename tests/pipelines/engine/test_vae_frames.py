"""The VAE's convolutions for one frame against diffusers' VAE."""

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import AutoencoderKLQwenImage, QwenImageEditPlusPipeline
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock
from torch.nn import functional

from pipelines.api.params import EditParams
from pipelines.engine.families import qwen2_5_vl
from pipelines.engine.families.qwen_image_edit_plus import load_components
from pipelines.engine.families.vae_frames import FrameConv, compute_images_in_two_dimensions
from pipelines.engine.pipeline import EditPipeline
from tests.conftest import TINY_SPEC, gradient

PARAMS = EditParams(
    prompt="make it red", negative_prompt="dark", seed=3, size=(288, 256), true_cfg_scale=4.0
)


@pytest.fixture(scope="module")
def theirs() -> AutoencoderKLQwenImage:
    """The published VAE's layers, a twelfth as wide."""
    torch.manual_seed(0)
    return AutoencoderKLQwenImage(base_dim=8).eval()


@pytest.fixture(scope="module")
def ours(theirs: AutoencoderKLQwenImage) -> AutoencoderKLQwenImage:
    vae = copy.deepcopy(theirs)
    compute_images_in_two_dimensions(vae)
    return vae


def pixels(frames: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.rand(batch, 3, frames, 64, 48, generator=generator) * 2 - 1


def error(found: torch.Tensor, expected: torch.Tensor) -> float:
    assert found.shape == expected.shape
    return float((found - expected).norm() / expected.norm())


@torch.no_grad()
@pytest.mark.parametrize("batch", [1, 2])
def test_one_frame_is_that_of_diffusers_to_1e_5(
    ours: AutoencoderKLQwenImage, theirs: AutoencoderKLQwenImage, batch: int
) -> None:
    image = pixels(1, batch)
    latents = theirs.encode(image).latent_dist.mode()

    assert error(ours.encode(image).latent_dist.mode(), latents) < 1e-5
    assert error(ours.decode(latents).sample, theirs.decode(latents).sample) < 1e-5


@torch.no_grad()
def test_one_frame_runs_no_convolution_over_time(
    ours: AutoencoderKLQwenImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(functional, "conv3d", lambda *_: pytest.fail("a 3D convolution"))
    ours.decode(ours.encode(pixels(1)).latent_dist.mode())


@torch.no_grad()
def test_video_is_that_of_diffusers(
    ours: AutoencoderKLQwenImage, theirs: AutoencoderKLQwenImage
) -> None:
    video = pixels(9)
    latents = theirs.encode(video).latent_dist.mode()
    assert latents.shape[2] == 3

    assert error(ours.encode(video).latent_dist.mode(), latents) < 1e-5
    assert error(ours.decode(latents).sample, theirs.decode(latents).sample) < 1e-5


@torch.no_grad()
@pytest.mark.parametrize("cached", [0, 1, 2])
@pytest.mark.parametrize("frames", [1, 3])
def test_several_frames_take_the_path_of_diffusers(frames: int, cached: int) -> None:
    torch.manual_seed(2)
    conv = QwenImageCausalConv3d(4, 6, 3, padding=1)
    images = torch.randn(1, 4, frames, 8, 6)
    cache = torch.randn(1, 4, cached, 8, 6) if cached else None
    expected = conv(images, cache)

    conv.__class__ = FrameConv
    found = conv(images, cache)

    assert error(found, expected) < 1e-5
    assert torch.equal(found, expected) or (frames == 1 and not cached)


@torch.no_grad()
@pytest.mark.parametrize(
    ("kernel", "padding", "stride"),
    [(1, 0, 1), ((3, 1, 1), (1, 0, 0), 1), (3, (1, 0, 1), (1, 2, 1)), ((1, 3, 5), (0, 1, 2), 1)],
)
def test_every_shape_of_convolution_is_that_of_diffusers(
    kernel: int | tuple[int, ...], padding: int | tuple[int, ...], stride: int | tuple[int, ...]
) -> None:
    torch.manual_seed(3)
    conv = QwenImageCausalConv3d(4, 6, kernel, stride=stride, padding=padding)
    image = torch.randn(2, 4, 1, 9, 8)
    expected = conv(image)

    conv.__class__ = FrameConv
    assert error(conv(image), expected) < 1e-5


def test_weights_stay_in_place(
    ours: AutoencoderKLQwenImage, theirs: AutoencoderKLQwenImage
) -> None:
    convs = [module for module in ours.modules() if isinstance(module, QwenImageCausalConv3d)]

    assert {type(conv) for conv in convs} == {FrameConv}
    assert ours.state_dict().keys() == theirs.state_dict().keys()
    for name, parameter in theirs.named_parameters():
        assert torch.equal(ours.get_parameter(name), parameter)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_edit_is_within_one_of_that_of_an_untouched_pipeline(
    tiny_model: Path, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stock, "VAE_IMAGE_SIZE", TINY_SPEC.reference_area)
    monkeypatch.setattr(stock, "CONDITION_IMAGE_SIZE", TINY_SPEC.condition_area)
    pipe = QwenImageEditPlusPipeline.from_pretrained(
        tiny_model, dtype=dtype, **load_components(tiny_model)
    )
    pipe.set_progress_bar_config(disable=True)
    # without it, diffusers places images wrongly
    qwen2_5_vl.pass_image_token_types(pipe.text_encoder)
    references = [gradient(), gradient(64, 96, shift=20)]

    expected = pipe(
        image=references,
        prompt=PARAMS.prompt,
        negative_prompt=PARAMS.negative_prompt,
        true_cfg_scale=4.0,
        width=288,
        height=256,
        num_inference_steps=TINY_SPEC.num_inference_steps,
        generator=torch.Generator().manual_seed(PARAMS.seed),
    ).images[0]
    pipeline = EditPipeline.load(tiny_model, device="cpu", dtype=dtype)
    found = pipeline.edit(PARAMS, references).images[0]

    difference = np.abs(np.asarray(found, np.int16) - np.asarray(expected, np.int16))
    assert difference.max() <= 1
