"""The spec of a model's folder, read before anything is loaded."""

import dataclasses
import json
from pathlib import Path

import pytest

from pipelines.api.errors import ModelUnusable
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.files.model_index import is_model_dir
from pipelines.files.spec_file import read_spec, write_spec

PUBLISHED = dataclasses.replace(QWEN_IMAGE_EDIT_PLUS.spec, name="some-model")


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "some-model"
    path.mkdir()
    (path / "model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')
    return path


def test_spec_has_published_values_without_a_spec_file(model: Path) -> None:
    spec = read_spec(model)

    assert spec == PUBLISHED
    assert (spec.num_inference_steps, spec.true_cfg_scale) == (40, 4.0)
    assert (spec.reference_area, spec.condition_area) == (1024 * 1024, 384 * 384)


def test_spec_file_overrides_single_values(model: Path) -> None:
    (model / "qwen_edit.json").write_text('{"num_inference_steps": 8}')

    assert read_spec(model) == dataclasses.replace(PUBLISHED, num_inference_steps=8)


def test_written_spec_is_read_back(model: Path) -> None:
    spec = dataclasses.replace(PUBLISHED, name="small", reference_area=None, can_write=False)

    write_spec(model, spec)

    assert read_spec(model) == spec


def test_spec_file_leaves_the_family_to_the_index(model: Path) -> None:
    write_spec(model, PUBLISHED)

    assert "family" not in json.loads((model / "qwen_edit.json").read_text())


def test_snapshot_in_the_hub_cache_has_the_name_of_its_repository(tmp_path: Path) -> None:
    snapshot = tmp_path / "models--Qwen--Qwen-Image-Edit" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')

    assert read_spec(snapshot).name == "Qwen/Qwen-Image-Edit"


@pytest.mark.parametrize(
    ("index", "message"),
    [
        (None, "cannot be read"),
        ("not json", "cannot be read"),
        ("[]", "must hold a JSON object"),
        ("{}", "holds a None; this server runs QwenImageEditPlusPipeline only"),
        ('{"_class_name": "FluxPipeline"}', "holds a FluxPipeline; this server runs"),
    ],
)
def test_folder_without_a_usable_index_is_named(
    tmp_path: Path, index: str | None, message: str
) -> None:
    if index is not None:
        (tmp_path / "model_index.json").write_text(index)

    with pytest.raises(ModelUnusable, match=message) as caught:
        read_spec(tmp_path)

    assert tmp_path.name in str(caught.value)
    # a client reads it, too
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("own", "message"),
    [
        (json.dumps({"steps": 8, "cfg": 1}), "has unknown keys: cfg, steps"),
        (json.dumps({"family": "another"}), "has unknown keys: family"),
        ("[1]", "must hold a JSON object"),
        ("{", "cannot be read"),
    ],
)
def test_malformed_spec_is_named(model: Path, own: str, message: str) -> None:
    (model / "qwen_edit.json").write_text(own)

    with pytest.raises(ModelUnusable, match=message):
        read_spec(model)


def test_folder_without_an_index_is_not_a_model(tmp_path: Path, model: Path) -> None:
    assert is_model_dir(model)
    assert not is_model_dir(tmp_path)
