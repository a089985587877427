"""The sampling profile of a LoRA: beside the file, in it, or in its name."""

import json
from pathlib import Path

import pytest

from pipelines.api.errors import LoraInvalid
from pipelines.api.sampling import NO_TERMINAL, Sampling
from pipelines.files.lora_profiles import profile_of_name, read_profile, read_sidecar

HUB = "lightx2v/Qwen-Image-Lightning"


def lightning(steps: int) -> Sampling:
    return Sampling(steps=steps, true_cfg_scale=1.0, shift=3.0, shift_terminal=NO_TERMINAL)


@pytest.mark.parametrize(
    ("reference", "steps"),
    [
        (f"{HUB}/Qwen-Image-Lightning-4steps-V1.0.safetensors", 4),
        (f"{HUB}/Qwen-Image-Lightning-8steps-V1.1-bf16.safetensors", 8),
        (f"{HUB}/Qwen-Image-Edit-2509/Qwen-Image-Edit-2509-Lightning-4steps-V1.0-bf16", 4),
        ("Qwen-Image-Edit-2511-Lightning-8steps-V1.0-fp32.safetensors", 8),
        ("qwen_image_edit_lightning_8-steps_v1.0.safetensors", 8),
        ("Qwen-Edit-Lightning-4-step", 4),
        ("lightning/4 steps.safetensors", 4),
        (f"https://huggingface.co/{HUB}/resolve/main/Qwen-Image-Edit-Lightning-4steps-V1.0", 4),
    ],
)
def test_lightning_is_known_by_its_published_names(reference: str, steps: int) -> None:
    profile = profile_of_name(reference, "it")

    assert profile is not None
    assert (profile.sampling, profile.is_guess) == (lightning(steps), False)


@pytest.mark.parametrize(
    ("reference", "steps"),
    [
        ("Qwen-Image-Edit-Turbo.safetensors", 8),
        ("qwen-turbo-4steps", 4),
        ("Hyper-Qwen-8steps-lora", 8),
        ("qwen_lcm", 8),
        ("qwen-edit-dmd2-4step", 4),
        ("DiffSynth-Studio/Qwen-Image-Distill-LoRA", 8),
    ],
)
def test_other_few_step_loras_are_a_guess(reference: str, steps: int) -> None:
    profile = profile_of_name(reference, "it")

    assert profile is not None
    assert profile.is_guess
    assert profile.sampling == Sampling(steps=steps, true_cfg_scale=1.0)


@pytest.mark.parametrize(
    "reference",
    [
        "lightning-storm-style.safetensors",
        "enlightning-4steps",
        "hyper-realistic-skin",
        "turbocharged-cars",
        "photo-4-steps-to-anime.safetensors",
        "Multiple-angles/镜头转换.safetensors",
        "lightning-1steps",
    ],
)
def test_style_is_no_few_step_lora(reference: str) -> None:
    assert profile_of_name(reference, "it") is None


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "Qwen-Lightning-4steps.safetensors"


def write_sidecar(file: Path, content: object) -> None:
    text = content if isinstance(content, str) else json.dumps(content)
    file.with_suffix(".json").write_text(text)


def sampling_of(file: Path, metadata: dict[str, str]) -> Sampling | None:
    profile = read_profile(file, file.name, metadata, file.name)
    return profile.sampling if profile else None


def test_sidecar_goes_before_metadata_before_the_name(file: Path) -> None:
    metadata = {"qwen_edit.sampling": '{"steps": 6, "shift_terminal": null}'}
    by_name = sampling_of(file, {})
    by_metadata = sampling_of(file, metadata)
    write_sidecar(file, {"activation text": "x", "qwen_edit": {"sampling": {"steps": 5}}})

    assert by_name == lightning(4)
    assert by_metadata == Sampling(steps=6, shift_terminal=NO_TERMINAL)
    assert sampling_of(file, metadata) == Sampling(steps=5)


def test_empty_profile_beside_the_file_takes_the_one_of_its_name_away(file: Path) -> None:
    write_sidecar(file, {"qwen_edit": {"sampling": {}}})

    assert sampling_of(file, {}) is None


def test_sidecar_of_another_program_changes_nothing(file: Path) -> None:
    for content in ({"sd version": "Other", "sampling": 1}, [1, 2]):
        write_sidecar(file, content)
        assert sampling_of(file, {}) == lightning(4)


def test_sidecar_may_give_an_alpha(file: Path) -> None:
    write_sidecar(file, {"qwen_edit": {"alpha": 16}})

    assert read_sidecar(file, file.name).alpha == 16.0


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "Lightning-4steps.json beside .* is no JSON"),
        ({"qwen_edit": 1}, "qwen_edit in .*json beside .* must be an object, got 1"),
        ({"qwen_edit": {"steps": 4}}, "unknown keys: steps; allowed are sampling and alpha"),
        ({"qwen_edit": {"sampling": {"step": 4}}}, "malformed: unknown keys: step"),
        ({"qwen_edit": {"sampling": {"steps": 1}}}, "malformed: steps must be between 2 and 100"),
        ({"qwen_edit": {"alpha": "high"}}, "an alpha that is no number above 0: 'high'"),
        ({"qwen_edit": {"alpha": 0}}, "an alpha that is no number above 0: 0"),
    ],
)
def test_malformed_sidecar_is_named(file: Path, content: object, message: str) -> None:
    write_sidecar(file, content)

    with pytest.raises(LoraInvalid, match=message) as caught:
        read_profile(file, file.name, {}, file.name)

    assert str(file.parent) not in str(caught.value)


@pytest.mark.parametrize("text", ["{", "[]", '{"steps": 4.5}', '{"sigmas": [1, 1]}'])
def test_malformed_metadata_is_named(file: Path, text: str) -> None:
    with pytest.raises(LoraInvalid, match=r"qwen_edit\.sampling in the metadata of Qwen-Li"):
        read_profile(file, file.name, {"qwen_edit.sampling": text}, file.name)
