"""The report checks its inputs before the evaluation, and updates the model card."""

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
    """The tiny model, without a card, in a folder of its own."""
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


def test_report_adds_a_card_and_keeps_the_rest_of_an_existing_one(model: Path, loras: Path) -> None:
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


def test_report_refuses_a_lora_that_does_not_fit_before_the_first_edit(
    model: Path, loras: Path, caplog: pytest.LogCaptureFixture
) -> None:
    wrong = random_pairs({"proj_out": (8, 8)}, ["proj_out"])
    write_lora(loras / f"demo-{STYLES[-1]}.safetensors", wrong)

    with caplog.at_level("INFO"), pytest.raises(LoraInvalid, match=STYLES[-1]):
        write_card(model, loras, per_task=1, sizes=SMALL, style_edits=1)
    assert "s per edit" not in caplog.text


def test_card_has_as_many_edits_as_the_command_makes_by_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["demo_model", "evaluate"])

    card = (SHIPPED_DEMO / "README.md").read_text()

    assert f"| recolor | 256×256 | {_parse_args().per_task} |" in card
