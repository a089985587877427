"""The schedule of a run against diffusers' scheduler with the published configurations."""

import dataclasses
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from diffusers.pipelines.qwenimage import pipeline_qwenimage_edit_plus as stock

from pipelines.api.errors import LoraInvalid
from pipelines.api.load_options import ForwardName
from pipelines.api.params import EditParams, LoraRef
from pipelines.api.profiles import Source
from pipelines.api.sampling import NO_TERMINAL, Sampling
from pipelines.engine.edit_result import EditResult
from pipelines.engine.families import FAMILIES
from pipelines.engine.pipeline import EditPipeline
from pipelines.files.lora_profiles import profile_of_name
from tests.conftest import TINY_SPEC, gradient
from tests.lora_files import Pair, random_pairs, write_lora

# The scheduler of the published model, and what Qwen-Image-Lightning's instructions change in it.
PUBLISHED = {
    "base_image_seq_len": 256, "base_shift": 0.5, "max_image_seq_len": 8192, "max_shift": 0.9,
    "num_train_timesteps": 1000, "shift": 1.0, "shift_terminal": 0.02,
    "time_shift_type": "exponential", "use_dynamic_shifting": True,
}  # fmt: skip
LIGHTNING = PUBLISHED | {
    "base_shift": math.log(3),
    "max_shift": math.log(3),
    "shift_terminal": None,
}
FOUR = "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors"
TOKENS = {(512, 512): 1024, (1024, 1024): 4096, (1536, 1024): 6144}


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> EditPipeline:
    return EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32)


def stock_sigmas(config: dict[str, object], steps: int, tokens: int) -> list[float]:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(config)
    names = ("base_image_seq_len", "max_image_seq_len", "base_shift", "max_shift")
    mu = stock.calculate_shift(tokens, *(config[name] for name in names))
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1 / steps, steps), mu=mu)
    sigmas: list[float] = scheduler.sigmas.tolist()
    return sigmas


def our_sigmas(pipeline: EditPipeline, steps: int, tokens: int, curve: Sampling) -> list[float]:
    schedule = FAMILIES[pipeline.spec.family].schedule(pipeline._pipe, steps, tokens, curve)
    sigmas: list[float] = schedule.scheduler.sigmas.tolist()
    return sigmas


@pytest.mark.parametrize("size", TOKENS)
@pytest.mark.parametrize("steps", [4, 8, 40])
def test_sigmas_equal_those_of_the_published_configurations(
    pipeline: EditPipeline, steps: int, size: tuple[int, int]
) -> None:
    tokens = TOKENS[size]
    lightning = Sampling(shift=3.0, shift_terminal=NO_TERMINAL)

    own = our_sigmas(pipeline, steps, tokens, Sampling())
    fast = our_sigmas(pipeline, steps, tokens, lightning)

    assert own == pytest.approx(stock_sigmas(PUBLISHED, steps, tokens), abs=1e-6)
    assert fast == pytest.approx(stock_sigmas(LIGHTNING, steps, tokens), abs=1e-6)


def test_four_lightning_steps_start_at_the_sigmas_they_were_distilled_on(
    pipeline: EditPipeline,
) -> None:
    lightning = Sampling(shift=3.0, shift_terminal=NO_TERMINAL)

    assert our_sigmas(pipeline, 4, 4096, lightning) == pytest.approx([1, 0.9, 0.75, 0.5, 0])


def test_explicit_sigmas_are_run_as_they_are(pipeline: EditPipeline) -> None:
    given = (1.0, 0.94, 0.5, 0.1)

    assert our_sigmas(pipeline, 4, 4096, Sampling(sigmas=given)) == pytest.approx([*given, 0])


@pytest.mark.parametrize("curve", [Sampling(shift=3.0), Sampling(shift_terminal=0.1)])
def test_shift_and_terminal_change_one_thing_each(pipeline: EditPipeline, curve: Sampling) -> None:
    changes = {"base_shift": math.log(3), "max_shift": math.log(3)} if curve.shift else {}
    terminal = {"shift_terminal": curve.shift_terminal} if curve.shift_terminal else {}
    expected = stock_sigmas(PUBLISHED | changes | terminal, 8, 4096)

    assert our_sigmas(pipeline, 8, 4096, curve) == pytest.approx(expected, abs=1e-6)


def test_model_with_a_static_shift_keeps_it(pipeline: EditPipeline) -> None:
    """As merged few-step models have it: no dynamic shift in the scheduler's own file."""
    static = FlowMatchEulerDiscreteScheduler.from_config(
        PUBLISHED | {"use_dynamic_shifting": False, "shift": 3.0, "shift_terminal": None}
    )
    before = pipeline._pipe.scheduler
    pipeline._pipe.scheduler = static
    try:
        schedule = FAMILIES[pipeline.spec.family].schedule(pipeline._pipe, 4, 4096, Sampling())
    finally:
        pipeline._pipe.scheduler = before

    assert schedule.scheduler.sigmas.tolist() == pytest.approx([1, 0.9, 0.75, 0.5, 0])
    assert (schedule.shift, schedule.shift_terminal) == (3.0, None)


def edit(pipeline: EditPipeline, *files: tuple[Path, float], **params: object) -> EditResult:
    loras = tuple(LoraRef(str(path), scale) for path, scale in files)
    named = [profile_of_name(path.name, path.name) for path, scale in files if scale]
    return pipeline.edit(
        EditParams("make it red", 3, size=(288, 256), loras=loras, **params),  # type: ignore[arg-type]
        [gradient(90, 64)],
        profiles=[profile for profile in named if profile],
    )


def merge(pipeline: EditPipeline, pairs: dict[str, Pair], scale: float) -> None:
    for name, pair in pairs.items():
        layer = pipeline._pipe.transformer.get_submodule(name)
        with torch.no_grad():
            layer.weight += (scale * pair.delta).float()


def pixels(image: PIL.Image.Image) -> np.ndarray:
    return np.asarray(image, dtype=np.int16)


def test_lightning_and_a_task_lora_give_the_stock_image_on_lightnings_scheduler(
    pipeline: EditPipeline, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The typical stack, with sizes and scales as published."""
    monkeypatch.setattr(stock, "VAE_IMAGE_SIZE", TINY_SPEC.reference_area)
    monkeypatch.setattr(stock, "CONDITION_IMAGE_SIZE", TINY_SPEC.condition_area)
    layers = ["transformer_blocks.0.attn.to_k", "transformer_blocks.0.img_mlp.net.2"]
    few = random_pairs(pipeline.linears, layers, rank=8, alpha=8, seed=1)
    task = random_pairs(pipeline.linears, layers, seed=2)
    lightning = write_lora(tmp_path / FOUR, few, down=".lora_down.weight", up=".lora_up.weight")
    angles = write_lora(tmp_path / "multiple-angles.safetensors", task)
    merged = EditPipeline.load(
        tiny_model, device="cpu", dtype=torch.float32, forward=ForwardName.STOCK
    )
    merge(merged, few, 1.0)
    merge(merged, task, 1.25)
    merged._pipe.scheduler = FlowMatchEulerDiscreteScheduler.from_config(LIGHTNING)

    result = edit(pipeline, (lightning, 1.0), (angles, 1.25))
    theirs = merged._pipe(
        image=[gradient(90, 64)],
        prompt="make it red",
        true_cfg_scale=1.0,
        width=288,
        height=256,
        num_inference_steps=4,
        generator=torch.Generator().manual_seed(3),
    ).images[0]

    assert np.abs(pixels(result.images[0]) - pixels(theirs)).max() <= 1
    used = result.sampling
    assert used is not None
    assert set(used.source.values()) == {Source.LORA}
    assert (used.steps, used.true_cfg_scale, used.shift_terminal) == (4, 1.0, None)
    assert used.shift == pytest.approx(3.0)
    assert used.sigmas == pytest.approx((1, 0.9, 0.75, 0.5))
    assert result.warnings == ()


def test_lora_at_scale_zero_has_no_say(pipeline: EditPipeline, tmp_path: Path) -> None:
    pairs = random_pairs(pipeline.linears, ["transformer_blocks.0.attn.to_k"])
    result = edit(pipeline, (write_lora(tmp_path / FOUR, pairs), 0.0))

    assert result.sampling is not None
    assert result.sampling == edit(pipeline).sampling
    assert result.sampling.source["shift"] is Source.SCHEDULER


def test_request_goes_before_the_lora_with_a_warning(
    pipeline: EditPipeline, tmp_path: Path
) -> None:
    pairs = random_pairs(pipeline.linears, ["transformer_blocks.0.attn.to_k"])
    file = write_lora(tmp_path / FOUR, pairs)

    result = edit(pipeline, (file, 1.0), num_inference_steps=6)

    used = result.sampling
    assert used is not None
    assert used.steps == len(used.sigmas) == 6
    assert (used.source["steps"], used.source["shift"]) == (Source.REQUEST, Source.LORA)
    assert result.warnings == (f"{FOUR} is made for 4 steps; the request asks for 6.",)


@pytest.mark.parametrize("alpha", [0.0, None])
def test_lora_that_changes_nothing_is_said_or_refused(
    pipeline: EditPipeline, tiny_model: Path, tmp_path: Path, alpha: float | None
) -> None:
    pairs = random_pairs(pipeline.linears, ["transformer_blocks.0.attn.to_k"], alpha=alpha)
    if alpha is None:
        pairs = {name: Pair(pair.down, 0 * pair.up) for name, pair in pairs.items()}
    file = write_lora(tmp_path / "nothing.safetensors", pairs)
    strict = EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32, strict_loras=True)
    said = "nothing.safetensors changes nothing: its weights or its alpha are zero."

    assert edit(pipeline, (file, 1.0)).warnings == (said,)
    assert edit(strict, (file, 0.0)).warnings == ()
    with pytest.raises(LoraInvalid, match=said):
        edit(strict, (file, 1.0))


def test_each_output_has_a_schedule_of_its_own(pipeline: EditPipeline) -> None:
    curve = Sampling(sigmas=(1.0, 0.6, 0.2))
    both = edit(pipeline, num_outputs=2, schedule=curve)
    params = EditParams("make it red", 4, size=(288, 256), schedule=curve)
    second = pipeline.edit(params, [gradient(90, 64)]).images[0]

    assert np.array_equal(pixels(both.images[1]), pixels(second))
    assert not np.array_equal(pixels(both.images[0]), pixels(edit(pipeline).images[0]))


def test_model_of_few_steps_brings_its_own_profile(tiny_model: Path, tmp_path: Path) -> None:
    pipeline = EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32)
    own = Sampling(steps=4, true_cfg_scale=1.0, shift=3.0, shift_terminal=NO_TERMINAL)
    pipeline.spec = dataclasses.replace(pipeline.spec, sampling=own)

    used = edit(pipeline).sampling

    assert used is not None
    assert set(used.source.values()) == {Source.MODEL}
    assert used.sigmas == pytest.approx((1, 0.9, 0.75, 0.5))
