"""Our edit against the stock pipeline, and its guarantees about seeds, sizes and progress."""

import dataclasses
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock

from demo_model import random_weights as demo
from pipelines.api.errors import InvalidParameter, ModelUnusable, NonFiniteOutput
from pipelines.api.load_options import Offload
from pipelines.api.messages import Stage
from pipelines.api.model_spec import ModelSpec
from pipelines.api.params import EditParams, LoraRef
from pipelines.engine.edit_result import Progress
from pipelines.engine.pipeline import EditPipeline
from pipelines.files.spec_file import read_spec
from tests.conftest import TINY_SPEC, gradient
from tests.lora_files import random_pairs, write_lora

PARAMS = EditParams(prompt="make the circle blue", seed=7, size=(256, 256))


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> EditPipeline:
    return EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32)


def pixels(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def edit(pipeline: EditPipeline, params: EditParams = PARAMS, count: int = 1) -> np.ndarray:
    references = [gradient(shift=20 * index) for index in range(count)]
    return pixels(pipeline.edit(params, references).images[0])


@pytest.fixture
def stock_areas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stock, "VAE_IMAGE_SIZE", TINY_SPEC.reference_area)
    monkeypatch.setattr(stock, "CONDITION_IMAGE_SIZE", TINY_SPEC.condition_area)


@pytest.mark.usefixtures("stock_areas")
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_edit_equals_the_stock_pipeline(pipeline: EditPipeline, count: int, scale: float) -> None:
    params = EditParams(
        prompt="make it red", negative_prompt="dark", seed=3, size=(288, 256), true_cfg_scale=scale
    )
    references = [gradient(90 + 30 * index, 64, shift=20 * index) for index in range(count)]

    ours = pipeline.edit(params, references).images[0]
    theirs = pipeline._pipe(
        image=references,
        prompt=params.prompt,
        negative_prompt=params.negative_prompt,
        true_cfg_scale=scale,
        width=288,
        height=256,
        num_inference_steps=TINY_SPEC.num_inference_steps,
        generator=torch.Generator().manual_seed(params.seed),
    ).images[0]

    assert np.abs(pixels(ours) - pixels(theirs)).max() <= 1


@pytest.mark.usefixtures("stock_areas")
def test_edit_equals_the_stock_pipeline_for_both_published_variants(tmp_path: Path) -> None:
    images = {}
    for name, zero_cond_t in (("2509", False), ("2511", True)):
        demo.build(tmp_path / name, width=64, layers=1, zero_cond_t=zero_cond_t, spec=TINY_SPEC)
        loaded = EditPipeline.load(tmp_path / name, device="cpu", dtype=torch.float32)
        images[name] = edit(loaded)
        theirs = loaded._pipe(
            image=[gradient()],
            prompt=PARAMS.prompt,
            negative_prompt=" ",
            width=256,
            height=256,
            num_inference_steps=3,
            generator=torch.Generator().manual_seed(PARAMS.seed),
        ).images[0]
        assert np.abs(images[name] - pixels(theirs)).max() <= 1
    assert np.abs(images["2509"] - images["2511"]).max() > 1


def test_text_encoder_places_image_tokens_in_three_dimensions(pipeline: EditPipeline) -> None:
    """Fails without the hook: diffusers 0.42 omits token types that transformers 5 needs."""
    encoder = pipeline._pipe.text_encoder
    seen: list[torch.Tensor] = []
    original = encoder.model.language_model.forward

    def record(*args: object, **kwargs: object) -> object:
        seen.append(kwargs["position_ids"])
        return original(*args, **kwargs)

    encoder.model.language_model.forward = record
    try:
        edit(pipeline, dataclasses.replace(PARAMS, prompt="never encoded before"))
    finally:
        encoder.model.language_model.forward = original

    height_positions, width_positions = seen[0][-2], seen[0][-1]
    assert not torch.equal(height_positions, width_positions)


def test_edit_repeats_with_its_seed_and_differs_with_another(
    pipeline: EditPipeline,
) -> None:
    first, again = edit(pipeline), edit(pipeline)
    other = edit(pipeline, EditParams(prompt=PARAMS.prompt, seed=8, size=(256, 256)))

    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_outputs_have_consecutive_seeds(pipeline: EditPipeline) -> None:
    two = EditParams(prompt="a", seed=5, size=(256, 256), num_outputs=2)
    images = pipeline.edit(two, [gradient()]).images
    second = edit(pipeline, EditParams(prompt="a", seed=6, size=(256, 256)))

    assert len(images) == 2
    assert np.array_equal(pixels(images[1]), second)


def test_negative_prompt_and_cfg_change_the_image(pipeline: EditPipeline) -> None:
    plain = edit(pipeline)
    negative = EditParams(prompt=PARAMS.prompt, seed=7, size=(256, 256), negative_prompt="yellow")
    unguided = EditParams(prompt=PARAMS.prompt, seed=7, size=(256, 256), true_cfg_scale=1.0)

    assert not np.array_equal(plain, edit(pipeline, negative))
    assert not np.array_equal(plain, edit(pipeline, unguided))


@pytest.mark.parametrize("size", [(256, 256), (257, 300), (999, 256), (256, 1001)])
def test_edit_gives_exactly_the_pixels_asked_for(
    pipeline: EditPipeline, size: tuple[int, int]
) -> None:
    params = EditParams(prompt="a", seed=1, size=size, num_inference_steps=2, true_cfg_scale=1)
    assert pipeline.edit(params, [gradient()]).images[0].size == size


def test_edit_without_a_size_follows_the_last_image(pipeline: EditPipeline) -> None:
    params = EditParams(prompt="a", seed=1, num_inference_steps=2, true_cfg_scale=1)
    wide, tall = gradient(200, 100), gradient(100, 200)

    image = pipeline.edit(params, [wide, tall]).images[0]

    assert image.height / image.width == pytest.approx(2, rel=0.1)


def test_edit_reports_every_step_and_times_every_stage(pipeline: EditPipeline) -> None:
    seen: list[Progress] = []
    result = pipeline.edit(PARAMS, [gradient()], seen.append)

    denoised = [p.step for p in seen if p.stage is Stage.DENOISE]
    assert denoised == [0, 1, 2, 3]
    assert seen[0].stage is Stage.ENCODE
    assert seen[-1].stage is Stage.DECODE
    assert set(result.seconds) == {Stage.ENCODE, Stage.DENOISE, Stage.DECODE}
    assert all(seconds > 0 for seconds in result.seconds.values())
    assert (result.num_inference_steps, result.true_cfg_scale) == (3, 4.0)


def test_encoding_reports_progress_between_its_parts(pipeline: EditPipeline) -> None:
    seen: list[Progress] = []
    pipeline.edit(PARAMS, [gradient()], seen.append)

    # at its start, and after each of the two prompts
    assert [p.stage for p in seen].count(Stage.ENCODE) == 3


def test_loras_report_progress_while_they_are_loaded(
    pipeline: EditPipeline, tmp_path: Path
) -> None:
    file = tmp_path / "style.safetensors"
    write_lora(file, random_pairs(pipeline.linears, ["transformer_blocks.0.attn.to_q"]))
    seen: list[Progress] = []
    params = dataclasses.replace(PARAMS, loras=(LoraRef(str(file), 1.0),))
    pipeline.edit(params, [gradient()], seen.append)

    # before the file is read and before it is composed
    assert [p.stage for p in seen[:3]] == [Stage.LOAD, Stage.LOAD, Stage.ENCODE]


@pytest.mark.parametrize("value", [torch.nan, torch.inf])
def test_non_finite_latents_fail_the_edit_and_not_the_next_one(
    pipeline: EditPipeline, value: float
) -> None:
    bias = pipeline._pipe.transformer.proj_out.bias
    before = bias.clone()
    with torch.no_grad():
        bias[0] = value
    try:
        with pytest.raises(NonFiniteOutput, match="NaN or infinity for seed 7"):
            pipeline.edit(PARAMS, [gradient()])
    finally:
        with torch.no_grad():
            bias.copy_(before)

    assert edit(pipeline).any()


class Stop(Exception):
    pass


@pytest.mark.parametrize("step", [0, 1, 2])
def test_edit_interrupted_at_a_step_does_not_affect_the_next_one(
    pipeline: EditPipeline, step: int
) -> None:
    before = edit(pipeline)

    def leave(progress: Progress) -> None:
        if progress.stage is Stage.DENOISE and progress.step == step:
            raise Stop

    with pytest.raises(Stop):
        pipeline.edit(EditParams(prompt="other", seed=99, size=(320, 256)), [gradient()], leave)

    assert np.array_equal(before, edit(pipeline))


@pytest.mark.parametrize("field", ["prompt", "negative_prompt"])
def test_edit_names_the_field_when_a_prompt_has_too_many_tokens(
    pipeline: EditPipeline, field: str
) -> None:
    params = dataclasses.replace(PARAMS, **{field: "é" * 3000})

    with pytest.raises(InvalidParameter, match=rf"^{field} must have at most 2048 tokens, got \d+"):
        pipeline.edit(params, [gradient()])


@pytest.mark.parametrize("count", [0, 4])
def test_edit_refuses_more_references_than_the_model_takes(
    pipeline: EditPipeline, count: int
) -> None:
    with pytest.raises(InvalidParameter, match=f"^images must have 1 to 3 entries, got {count}$"):
        pipeline.edit(PARAMS, [gradient()] * count)


@pytest.mark.parametrize("offload", [Offload.GROUP, Offload.MODEL])
def test_offloaded_model_gives_the_same_image(
    pipeline: EditPipeline, tiny_model: Path, offload: Offload
) -> None:
    offloaded = EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32, offload=offload)
    # the memory layout of weights may change the order of a sum
    assert np.abs(edit(pipeline) - edit(offloaded)).max() <= 1


def test_bfloat16_gives_nearly_the_same_image(pipeline: EditPipeline, tiny_model: Path) -> None:
    half = EditPipeline.load(tiny_model, device="cpu", dtype=torch.bfloat16)
    assert half.dtype is torch.bfloat16
    # the starting noise is drawn in the model's dtype, so pixels may differ
    assert edit(half).shape == edit(pipeline).shape
    assert np.array_equal(edit(half), edit(half))


def test_load_refuses_another_pipeline(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(ModelUnusable, match="FluxPipeline"):
        EditPipeline.load(tmp_path, device="cpu", dtype=torch.float32)


def test_load_names_what_is_missing(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text((tiny_model / "model_index.json").read_text())
    with pytest.raises(ModelUnusable, match=tmp_path.name):
        EditPipeline.load(tmp_path, device="cpu", dtype=torch.float32)


def test_published_folder_has_published_values_without_a_spec_file(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "Qwen-Image-Edit-2511"
    folder.mkdir()
    (folder / "model_index.json").write_text((tiny_model / "model_index.json").read_text())
    assert read_spec(folder) == ModelSpec(
        name="Qwen-Image-Edit-2511",
        family="qwen_image_edit_plus",
        reference_area=1024 * 1024,
        condition_area=384 * 384,
        output_area=1024 * 1024,
        num_inference_steps=40,
        true_cfg_scale=4.0,
        can_write=True,
    )


def test_random_model_repeats_with_its_seed(tmp_path: Path) -> None:
    for name in ("one", "two"):
        demo.build(tmp_path / name, seed=4)
    one, two = (
        {
            str(file.relative_to(tmp_path / name)): file.read_bytes()
            for file in (tmp_path / name).rglob("*")
            if file.is_file()
        }
        for name in ("one", "two")
    )
    assert one == two


def test_demo_prompt_template_has_the_64_tokens_that_the_pipeline_drops(
    pipeline: EditPipeline,
) -> None:
    pipe = pipeline._pipe
    head = pipe.prompt_template_encode.split("{}")[0]
    assert len(pipe.tokenizer(head)["input_ids"]) == pipe.prompt_template_encode_start_idx
