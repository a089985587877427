"""A new model folder replaces the old one only once it is complete."""

from pathlib import Path

import pytest

from demo_model.replace_folder import CARD, new_folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """An old model with a card."""
    path = tmp_path / "weights" / "demo"
    (path / "vae").mkdir(parents=True)
    (path / "vae" / "config.json").write_text("old")
    (path / CARD).write_text("# the card")
    return path


def test_new_model_replaces_the_old_one_and_keeps_the_card(model: Path) -> None:
    with new_folder(model) as made:
        made.mkdir()
        (made / "model_index.json").write_text("new")
        while_made = (model / "vae" / "config.json").read_text()

    assert while_made == "old"
    assert sorted(path.name for path in model.iterdir()) == [CARD, "model_index.json"]
    assert (model / CARD).read_text() == "# the card"
    assert list(model.parent.iterdir()) == [model]


def test_old_model_stays_when_the_new_one_fails(model: Path) -> None:
    def begin_and_fail(made: Path) -> None:
        made.mkdir()
        raise RuntimeError("a training step failed")

    with pytest.raises(RuntimeError), new_folder(model) as made:
        begin_and_fail(made)

    assert (model / "vae" / "config.json").read_text() == "old"
    assert list(model.parent.iterdir()) == [model]


def test_old_model_stays_when_nothing_was_written(model: Path) -> None:
    (model / CARD).unlink()
    with pytest.raises(FileNotFoundError), new_folder(model):
        pass

    assert (model / "vae" / "config.json").read_text() == "old"


def test_first_model_needs_no_old_one(tmp_path: Path) -> None:
    with new_folder(tmp_path / "models" / "first") as made:
        made.mkdir()

    assert (tmp_path / "models" / "first").is_dir()
