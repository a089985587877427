"""Files of PEFT, which say their alpha in a configuration of its own."""

import json
from pathlib import Path

import pytest

from pipelines.api.errors import LoraInvalid
from pipelines.files.lora_format import alpha
from pipelines.files.lora_format.report import inspect_lora
from pipelines.files.safetensors_header import read_header
from tests.lora_files import PREFIXES, adapter_metadata, random_pairs, write_lora

LAYERS = ["transformer_blocks.0.attn.to_q", "transformer_blocks.0.attn.to_k"]
LINEARS = dict.fromkeys(LAYERS, (64, 64))
NAME = "style.safetensors"


def multiplier_of(path: Path, name: str, given: float | None) -> float:
    return alpha.multiplier_of(read_header(path, name), path, name, given)


def write(folder: Path, prefix: str = "peft", **options: object) -> Path:
    own = options.pop("alpha", None)
    pairs = random_pairs(LINEARS, LAYERS, rank=4, alpha=own)  # type: ignore[arg-type]
    text, flat = PREFIXES[prefix]
    return write_lora(folder / NAME, pairs, prefix=text, flat=flat, **options)  # type: ignore[arg-type]


def test_file_of_peft_without_its_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LoraInvalid, match="does not say its alpha, so its strength is unknown"):
        multiplier_of(write(tmp_path), NAME, None)


def test_request_gives_the_alpha(tmp_path: Path) -> None:
    assert multiplier_of(write(tmp_path), NAME, 16.0) == 4.0


def test_sidecar_gives_the_alpha_unless_the_request_does(tmp_path: Path) -> None:
    path = write(tmp_path)
    path.with_suffix(".json").write_text(json.dumps({"qwen_edit": {"alpha": 8}}))

    assert multiplier_of(path, NAME, None) == 2.0
    assert multiplier_of(path, NAME, 4.0) == 1.0


@pytest.mark.parametrize("prefix", [name for name in PREFIXES if name != "peft"])
def test_files_of_other_trainers_mean_their_rank(tmp_path: Path, prefix: str) -> None:
    assert multiplier_of(write(tmp_path, prefix), NAME, None) == 1.0


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 8.0},
        {"metadata": adapter_metadata(4, 8)},
        {"prefix": "diffusers"},
    ],
)
def test_alpha_beside_one_of_the_file_is_refused(
    tmp_path: Path, options: dict[str, object]
) -> None:
    with pytest.raises(LoraInvalid, match="says its own alpha: leave out `alpha`"):
        multiplier_of(write(tmp_path, **options), NAME, 16.0)


def test_several_ranks_need_the_configuration(tmp_path: Path) -> None:
    pairs = random_pairs(LINEARS, LAYERS[:1], rank=4) | random_pairs(LINEARS, LAYERS[1:], rank=8)
    path = write_lora(tmp_path / NAME, pairs, prefix="base_model.model.")

    with pytest.raises(LoraInvalid, match=r"several ranks \(4, 8\)"):
        multiplier_of(path, NAME, 16.0)


def test_report_says_that_a_request_must_give_the_alpha(tmp_path: Path) -> None:
    path = write(tmp_path)
    silent = inspect_lora(path, LINEARS, NAME)
    path.with_suffix(".json").write_text(json.dumps({"qwen_edit": {"alpha": 8}}))
    told = inspect_lora(path, LINEARS, NAME)

    assert silent.fits
    assert [warning for warning in silent.warnings if "does not say its alpha" in warning]
    assert [warning for warning in told.warnings if "alpha" in warning] == []
