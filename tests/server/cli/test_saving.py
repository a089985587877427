"""Where `qwen-edit edit` saves, and what it refuses before anything is computed."""

from pathlib import Path

import PIL.Image
import pytest
import typer
from typer.testing import CliRunner

from server.cli import app
from server.cli.saving import check_apart, save_sheet
from tests.conftest import encoded, gradient
from tests.live_server import LiveServer
from tests.server.cli.command import run
from tests.server.cli.conftest import files_of


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
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    sentence: str,
) -> None:
    monkeypatch.chdir(image.parent)
    Path("folder.png").mkdir()
    before = count_jobs(server)

    done = run("edit", image.name, "-p", "a", *arguments, "--server", server.url)

    assert done.returncode == 2
    assert sentence in " ".join(done.stderr.replace("│", " ").split())
    assert "Traceback" not in done.stderr
    assert count_jobs(server) == before


@pytest.mark.parametrize(
    ("arguments", "option", "sentence"),
    [
        (("-o", "1.png"), "--output", "1.png is the same file as the image to edit 1.png"),
        (("-o", "2.png", "--grid", "seed=1"), "--output", "as the image to edit sub/../2.png"),
        (("--compare", "1.png"), "--compare", "1.png is the same file as the image to edit"),
        (("--compare", "sub/../out.png"), "--compare", "same file as the output out.png"),
        (("-o", "link.png", "--compare", "new.png"), "--compare", "as the output link.png"),
        (
            ("--grid", "seed=7,8", "--keep-cells", "sub"),
            "--keep-cells",
            "sub/02-seed-8.png is the same file as the image to edit sub/02-seed-8.png",
        ),
        (
            ("--grid", "scale=.5,1", "--lora", "x", "--keep-cells", ".", "-o", "01-x-0.5.png"),
            "--keep-cells",
            "01-x-0.5.png is the same file as the output 01-x-0.5.png",
        ),
    ],
)
def test_place_where_an_image_or_the_output_lies_is_refused(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    option: str,
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    images = "1.png", "sub/../2.png", "sub/02-seed-8.png"
    for name in images:
        Path(name).write_bytes(encoded(gradient()))
    Path("link.png").symlink_to("new.png")
    before = files_of(tmp_path)

    done = CliRunner().invoke(
        app,
        ["edit", *images, "-p", "a", *arguments, "--server", "http://127.0.0.1:9"],
        env={"COLUMNS": "200"},
    )

    assert done.exit_code == 2, done.stderr
    message = " ".join(done.stderr.replace("│", " ").split())
    assert f"Invalid value for {option}: " in message
    assert sentence in message
    assert "would be overwritten: choose another place" in message
    assert files_of(tmp_path) == before


def test_hard_link_is_the_same_file_and_links_in_a_circle_are_none(tmp_path: Path) -> None:
    image, link, circle = (tmp_path / name for name in ("a.png", "link.png", "circle.png"))
    image.touch()
    link.hardlink_to(image)
    circle.symlink_to(circle)

    with pytest.raises(typer.BadParameter, match="choose another place"):
        check_apart(link, "--output", [(image, "image to edit")])
    check_apart(circle, "--output", [(image, "image to edit")])


def test_folder_is_no_image(tmp_path: Path) -> None:
    done = run("edit", str(tmp_path), "-p", "a", "--server", "http://127.0.0.1:9")

    assert done.returncode == 2
    assert "is a directory" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("--grid", "scale=0,1"), "add --lora NAME"),
        (("--grid", "seed=1", "--compare", "b.png"), "Invalid value for --compare"),
        (("--keep-cells", "cells"), "is for the images of a grid: add --grid"),
        (("--compare", "a.gif"), "a.gif must end in one of .png"),
    ],
)
def test_options_that_make_no_sense_are_refused_before_anything_is_sent(
    image: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    done = run("edit", str(image), "-p", "a", *arguments, "--server", "http://127.0.0.1:9")

    assert done.returncode == 2
    assert sentence in done.stderr
