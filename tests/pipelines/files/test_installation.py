"""The folders of an installation, with and without a checkout."""

from pathlib import Path

import pytest

from pipelines.files.installation import SHIPPED_WEIGHTS, default_folder, is_checkout

ROOT = Path(__file__).parents[3]


def test_checkout_is_recognised_by_the_name_in_its_pyproject() -> None:
    assert is_checkout(ROOT)
    assert is_checkout()


@pytest.mark.parametrize(
    "document", [None, "", "no TOML", "project = 1", '[project]\nname = "another"', "\0"]
)
def test_folder_of_another_project_is_no_checkout(tmp_path: Path, document: str | None) -> None:
    if document is not None:
        (tmp_path / "pyproject.toml").write_text(document)

    assert not is_checkout(tmp_path)


def test_default_folder_is_in_the_working_directory_for_a_checkout() -> None:
    assert default_folder("data", ROOT) == Path("data")


def test_default_folder_is_the_users_without_a_checkout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "share"))

    folder = default_folder("data", tmp_path)

    assert folder == tmp_path / "share" / "qwen-edit-server" / "data"
    assert not folder.exists()


def test_shipped_weights_hold_the_demo_model_and_its_loras() -> None:
    names = {path.name for path in (SHIPPED_WEIGHTS / "loras").glob("demo-*.safetensors")}

    assert (SHIPPED_WEIGHTS / "demo" / "model_index.json").is_file()
    assert names == {
        "demo-mosaic.safetensors",
        "demo-outline.safetensors",
        "demo-sepia.safetensors",
    }
