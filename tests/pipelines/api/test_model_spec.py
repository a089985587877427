"""What is read of a model's folder before anything is loaded, and how a wrong one is named."""

import json
from pathlib import Path

import pytest

from pipelines.api.errors import ModelUnusable
from pipelines.api.model_spec import DEMO_SPEC, ModelSpec, is_model_dir, read_spec, write_spec


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "some-model"
    path.mkdir()
    (path / "model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')
    return path


def test_spec_has_the_published_values_when_the_model_says_nothing(model: Path) -> None:
    spec = read_spec(model)

    assert spec == ModelSpec("some-model")
    assert (spec.num_inference_steps, spec.true_cfg_scale) == (40, 4.0)
    assert (spec.reference_area, spec.condition_area) == (1024 * 1024, 384 * 384)


def test_spec_takes_single_values_of_the_models_own(model: Path) -> None:
    (model / "qwen_edit.json").write_text('{"num_inference_steps": 8}')

    assert read_spec(model) == ModelSpec("some-model", num_inference_steps=8)


def test_written_spec_is_read_back(model: Path) -> None:
    write_spec(model, DEMO_SPEC)

    assert read_spec(model) == DEMO_SPEC


def test_snapshot_in_the_hub_cache_has_the_name_of_its_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen-Image-Edit" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')

    assert read_spec(snapshot).name == "Qwen/Qwen-Image-Edit"


@pytest.mark.parametrize(
    ("index", "sentence"),
    [
        (None, "cannot be read"),
        ("not json", "cannot be read"),
        ("[]", "must hold a JSON object"),
        ("{}", "holds a None; this server runs QwenImageEditPlusPipeline only"),
        ('{"_class_name": "FluxPipeline"}', "holds a FluxPipeline; this server runs"),
    ],
)
def test_folder_without_a_usable_index_is_named(
    tmp_path: Path, index: str | None, sentence: str
) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)

    with pytest.raises(ModelUnusable, match=sentence) as caught:
        read_spec(tmp_path)

    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("own", "sentence"),
    [
        (json.dumps({"steps": 8, "cfg": 1}), "has unknown keys: cfg, steps"),
        ("[1]", "must hold a JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_malformed_spec_is_named(model: Path, own: str, sentence: str) -> None:
    (model / "qwen_edit.json").write_text(own)

    with pytest.raises(ModelUnusable, match=sentence):
        read_spec(model)


def test_folder_without_an_index_is_no_model(tmp_path: Path, model: Path) -> None:
    assert is_model_dir(model)
    assert not is_model_dir(tmp_path)
