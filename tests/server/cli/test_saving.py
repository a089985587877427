"""Where `qwen-edit edit` saves, and what it refuses before anything is computed."""

from pathlib import Path

import PIL.Image
import pytest
import typer

from server.cli.saving import save_sheet
from tests.live_server import LiveServer
from tests.server.cli.command import run


def count_jobs(server: LiveServer) -> int:
    """How many jobs the server has had."""
    total: int = server.http.get(f"{server.url}/v1/edits").json()["total"]
    return total


def test_sheet_that_cannot_be_written_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(typer.Exit) as caught:
        save_sheet(PIL.Image.new("RGB", (16400, 8)), tmp_path / "sheet.webp")

    assert caught.value.exit_code == 1
    assert "sheet.webp cannot be saved:" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("-o", "missing/out.png"), "lies in a folder that does not exist: make missing first"),
        (("--compare", "missing/b.png"), "Invalid value for --compare"),
        (("-o", "folder.png"), "file 'folder.png' is a directory"),
        (("--grid", "seed=1,2", "--keep-cells", "cat.png/x"), "cannot be made: Not a directory"),
    ],
)
def test_place_where_nothing_can_be_saved_is_refused_before_anything_is_sent(
    server: LiveServer,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(picture.parent)
    Path("folder.png").mkdir()
    before = count_jobs(server)

    done = run("edit", picture.name, "-p", "a", *arguments, "--server", server.url)

    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert count_jobs(server) == before


def test_folder_is_no_picture(tmp_path: Path) -> None:
    done = run("edit", str(tmp_path), "-p", "a", "--server", "http://127.0.0.1:9")

    assert done.returncode == 2
    assert "is a directory" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--grid", "scale=0,1"), "add --lora NAME"),
        (("--grid", "seed=1", "--compare", "b.png"), "Invalid value for --compare"),
        (("--keep-cells", "cells"), "is for the pictures of a grid: add --grid"),
        (("--compare", "a.gif"), "a.gif must end in one of .png"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_sent(
    picture: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    done = run("edit", str(picture), "-p", "a", *arguments, "--server", "http://127.0.0.1:9")

    assert done.returncode == 2
    assert sentence in done.stderr
