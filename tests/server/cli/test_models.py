"""`qwen-edit models`: the list, and what may be removed."""

import io
import re
import shutil
from pathlib import Path

import pytest

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.files.catalog import Catalog
from tests.live_server import LiveServer
from tests.server.cli.command import QwenEdit


@pytest.fixture
def weights(tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A weights folder with two models, which the commands use."""
    folder = tmp_path / "weights"
    for name in ("first", "owner/second"):
        shutil.copytree(tiny_model, folder / "models" / name)
    monkeypatch.setenv("QWEN_EDIT_WEIGHTS_DIR", str(folder))
    return folder


def test_models_lists_name_size_family_and_the_one_to_serve(
    weights: Path, qwen_edit: QwenEdit
) -> None:
    done = qwen_edit("models")

    assert done.returncode == 0, done.stderr
    [first, second] = [
        line.split() for line in done.stdout.splitlines() if QWEN_IMAGE_EDIT_PLUS.title in line
    ]
    assert first[:2] == ["*", "first"]
    assert second[0] == "owner/second"
    size = sum(path.stat().st_size for path in (weights / "models/first").rglob("*"))
    assert float(first[2]) == pytest.approx(size / 1e6, abs=0.1)
    assert f"qwen-edit serve takes {weights / 'models/first'}: the first by name" in done.stdout


def test_models_marks_the_model_of_the_setting(
    weights: Path, qwen_edit: QwenEdit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_EDIT_MODEL", "owner/second")
    (weights / "models/first/model_index.json").write_text("{")

    done = qwen_edit("models")

    assert done.returncode == 0, done.stderr
    assert any(line.split()[:2] == ["*", "owner/second"] for line in done.stdout.splitlines())
    assert "unknown" in done.stdout


def test_models_lists_the_demo_model_when_there_is_no_other(
    tmp_path: Path, qwen_edit: QwenEdit
) -> None:
    done = qwen_edit("models", "--weights-dir", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert any(line.split()[:2] == ["*", "demo"] for line in done.stdout.splitlines())


def test_models_remove_deletes_one_model_and_its_empty_owner_folder(
    weights: Path, qwen_edit: QwenEdit
) -> None:
    done = qwen_edit("models", "remove", "owner/second", "--yes")

    assert done.returncode == 0, done.stderr
    assert f"removed {weights / 'models/owner/second'}" in done.stdout
    assert [path.name for path in (weights / "models").iterdir()] == ["first"]


def test_models_remove_deletes_a_link_and_keeps_what_it_leads_to(
    weights: Path, tmp_path: Path, qwen_edit: QwenEdit
) -> None:
    target = shutil.move(weights / "models" / "first", tmp_path / "elsewhere")
    link = weights / "models" / "linked"
    link.symlink_to(target, target_is_directory=True)

    done = qwen_edit("models", "remove", "linked", "-y")

    assert done.returncode == 0, done.stderr
    assert not link.is_symlink()
    assert (target / "model_index.json").is_file()


@pytest.mark.parametrize("answer", ["n\n", ""])
def test_models_remove_keeps_the_model_without_a_yes(
    weights: Path, qwen_edit: QwenEdit, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(answer))

    done = qwen_edit("models", "remove", "first")

    assert done.returncode == 1
    assert "nothing was removed" in done.stderr
    assert (weights / "models/first/model_index.json").is_file()


@pytest.mark.parametrize("name", ["demo", "third", "../../weights/models/first", ""])
def test_models_remove_refuses_a_name_that_is_not_listed(
    weights: Path, qwen_edit: QwenEdit, name: str
) -> None:
    done = qwen_edit("models", "remove", name, "--yes")

    assert done.returncode == 1
    assert "The weights folder has: first, owner/second." in done.stderr
    assert len(Catalog(weights).models()) == 2


def test_models_remove_refuses_a_model_that_a_server_uses(
    weights: Path, tiny_model: Path, server: LiveServer, qwen_edit: QwenEdit
) -> None:
    link = weights / "models" / "served"
    link.symlink_to(tiny_model, target_is_directory=True)

    done = qwen_edit("models", "remove", "served", "--yes")

    assert done.returncode == 1
    match = re.search(rf"the process (\d+) uses {link}", done.stderr)
    assert match is not None
    # any server of these tests may be the one that is named
    assert f"--model\0{tiny_model}\0" in Path(f"/proc/{match[1]}/cmdline").read_text()
    assert link.is_symlink()
