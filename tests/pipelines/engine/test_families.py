"""Both sides of the torch border know the same model families, and agree about each."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from diffusers import QwenImageEditPlusPipeline

from pipelines.api import families as without_torch
from pipelines.api.errors import InvalidParameter
from pipelines.api.params import EditParams
from pipelines.engine import families as with_torch
from pipelines.engine.pipeline import EditPipeline
from pipelines.files.architecture import read_linears
from tests.conftest import gradient

NAMES = sorted(without_torch.FAMILIES)


class OtherPipeline(QwenImageEditPlusPipeline):
    """The pipeline of a family that differs from Qwen-Image-Edit-Plus in its facts alone."""


@pytest.fixture
def other_family(monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a family that is registered on both sides for one test."""
    qwen = with_torch.QWEN_IMAGE_EDIT_PLUS
    facts = dataclasses.replace(
        qwen.facts,
        name="other",
        pipeline_class="OtherPipeline",
        spec=dataclasses.replace(qwen.facts.spec, family="other"),
        max_references=1,
    )
    family = dataclasses.replace(qwen, facts=facts, pipeline_class=OtherPipeline)
    monkeypatch.setitem(without_torch.FAMILIES, "other", facts)
    monkeypatch.setitem(with_torch.FAMILIES, "other", family)
    return "other"


@pytest.fixture
def other_model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, whose index names the other family's pipeline."""
    for part in tiny_model.iterdir():
        (tmp_path / part.name).symlink_to(part)
    index = json.loads((tiny_model / "model_index.json").read_text())
    (tmp_path / "model_index.json").unlink()
    (tmp_path / "model_index.json").write_text(
        json.dumps({**index, "_class_name": "OtherPipeline"})
    )
    return tmp_path


def test_both_sides_register_the_same_families() -> None:
    assert sorted(with_torch.FAMILIES) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_of_a_family_agree(name: str) -> None:
    facts, family = without_torch.FAMILIES[name], with_torch.FAMILIES[name]

    assert family.facts is facts
    assert (facts.name, facts.spec.family) == (name, name)
    assert family.pipeline_class.__name__ == facts.pipeline_class
    assert set(facts.weight_stems) == set(facts.parameters)


def test_no_two_families_share_a_pipeline() -> None:
    classes = [family.pipeline_class for family in without_torch.FAMILIES.values()]

    assert len(set(classes)) == len(classes)


def test_family_is_served_when_it_is_registered_on_both_sides(
    other_family: str, other_model: Path
) -> None:
    params = EditParams(prompt="a", seed=1, size=(256, 256), num_inference_steps=2)

    pipeline = EditPipeline.load(other_model, device="cpu", dtype=torch.float32)

    assert pipeline.spec.family == other_family
    assert pipeline.edit(params, [gradient()]).images[0].size == (256, 256)
    assert read_linears(other_model) == pipeline.linears
    with pytest.raises(InvalidParameter, match="got 2"):
        pipeline.edit(params, [gradient()] * 2)
