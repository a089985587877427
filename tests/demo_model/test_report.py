"""The judgement finds out before it begins whether it can be written, and writes it."""

import sys
from pathlib import Path

import pytest

from demo_model.__main__ import _parse_args
from demo_model.report import END, START, write_card
from demo_model.styles import STYLES
from pipelines.api.errors import LoraInvalid
from pipelines.files.catalog import SHIPPED_DEMO
from tests.lora_files import random_pairs, write_lora

LINEARS = {"proj_out": (64, 64)}
SMALL = {(64, 64): 1.0}


@pytest.fixture
def model(tiny_model: Path, tmp_path: Path) -> Path:
    """The tiny model, which has no card, in a folder that may get one."""
    path = tmp_path / "other"
    path.mkdir()
    for part in tiny_model.iterdir():
        (path / part.name).symlink_to(part)
    return path


@pytest.fixture
def loras(tmp_path: Path) -> Path:
    for style in STYLES:
        write_lora(tmp_path / f"demo-{style}.safetensors", random_pairs(LINEARS, ["proj_out"]))
    return tmp_path


def test_model_without_a_card_gets_one_and_the_rest_of_a_card_stays(
    model: Path, loras: Path
) -> None:
    card = model / "README.md"

    write_card(model, loras, per_task=1, sizes=SMALL, style_edits=1)
    first = card.read_text()
    card.write_text(f"# mine\n\nbefore\n{START}old figures{END}\n\nafter\n")
    write_card(model, loras, per_task=1, sizes=SMALL, style_edits=1)

    assert first.startswith(f"# other\n\n{START}\n| task | size | edits | right |")
    assert f"| {' and '.join(STYLES[:2])} |" in first
    assert first.endswith(f"|\n{END}\n")
    figures = first.partition(START)[2].partition(END)[0]
    assert card.read_text() == f"# mine\n\nbefore\n{START}{figures}{END}\n\nafter\n"


def test_lora_that_does_not_fit_is_said_before_the_model_is_judged(
    model: Path, loras: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = random_pairs({"proj_out": (8, 8)}, ["proj_out"])
    write_lora(loras / f"demo-{STYLES[-1]}.safetensors", wrong)

    with caplog.at_level("INFO"), pytest.raises(LoraInvalid, match=STYLES[-1]):
        write_card(model, loras, per_task=1, sizes=SMALL, style_edits=1)
    assert "s per edit" not in caplog.text


def test_card_has_the_figures_that_the_plain_command_writes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo_model", "judge"])

    card = (SHIPPED_DEMO / "README.md").read_text()

    assert f"| recolor | 256×256 | {_parse_args().per_task} |" in card
