"""Files that cannot be applied are refused with a message that names them, without a trace."""

from pathlib import Path

import numpy as np
import pytest

from pipelines.api.errors import LoraInvalid, LoraNotFound
from pipelines.engine.lora import read_lora
from pipelines.engine.pipeline import EditPipeline
from tests.lora_files import Linears, random_pairs, write_lora
from tests.pipelines.engine.lora.conftest import MODULES, edit
from tests.pipelines.engine.lora.corpus import CORPUS
from tests.pipelines.engine.lora.corpus_faults import CONTAINERS, MISFITS
from tests.pipelines.engine.lora.corpus_kinds import FAULTS, KINDS
from tests.pipelines.engine.lora.corpus_layouts import LAYOUTS


def test_corpus_has_a_file_for_each_layout_and_fault() -> None:
    assert len(CORPUS) == len(LAYOUTS) + len(CONTAINERS) + len(MISFITS) + len(KINDS)
    assert len(FAULTS) >= 40


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_file_is_refused_with_its_reason(
    linears: Linears, tmp_path: Path, fault: str
) -> None:
    write, message = FAULTS[fault]
    path = tmp_path / "faulty.safetensors"
    write(path, linears)

    with pytest.raises(LoraInvalid, match=message) as caught:
        read_lora(path, linears)

    assert "faulty.safetensors" in str(caught.value)
    assert str(tmp_path) not in str(caught.value)


def test_configuration_beside_a_file_is_named_when_it_is_damaged(
    linears: Linears, tmp_path: Path
) -> None:
    path = write_lora(
        tmp_path / "adapter_model.safetensors", random_pairs(linears, MODULES), prefix=""
    )
    (tmp_path / "adapter_config.json").write_text("{")

    with pytest.raises(LoraInvalid, match=r"adapter_config\.json beside adapter_model\.saf"):
        read_lora(path, linears)


def test_missing_file_is_named(linears: Linears, tmp_path: Path) -> None:
    with pytest.raises(LoraNotFound, match=r"away\.safetensors is gone"):
        read_lora(tmp_path / "away.safetensors", linears)


@pytest.mark.parametrize("fault", ["data cut", "no up matrix", "NaN", "LoKr in part"])
def test_failed_edit_leaves_no_lora_behind(
    pipeline: EditPipeline, base: np.ndarray, tmp_path: Path, fault: str
) -> None:
    good = write_lora(tmp_path / "good.safetensors", random_pairs(pipeline.linears, MODULES))
    bad = tmp_path / "bad.safetensors"
    FAULTS[fault][0](bad, pipeline.linears)

    with pytest.raises(LoraInvalid, match=r"bad\.safetensors"):
        edit(pipeline, (good, 1.0), (bad, 1.0))

    assert np.array_equal(base, edit(pipeline))


def test_faulty_file_is_refused_at_scale_zero_too(
    pipeline: EditPipeline, base: np.ndarray, tmp_path: Path
) -> None:
    bad = tmp_path / "bad.safetensors"
    FAULTS["NaN"][0](bad, pipeline.linears)

    with pytest.raises(LoraInvalid, match="NaN or infinity"):
        edit(pipeline, (bad, 0.0))
