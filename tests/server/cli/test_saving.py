"""Output files of `qwen-edit edit`, and those it rejects before the request."""

from pathlib import Path

import PIL.Image
import pytest
import typer

from server.cli.errors import CommandError
from server.cli.saving import Places, check_apart
from tests.conftest import encoded, gradient
from tests.live_server import LiveServer
from tests.server.cli.command import QwenEdit
from tests.server.cli.conftest import files_of


def count_jobs(server: LiveServer) -> int:
    """How many jobs the server has had."""
    total: int = server.http.get(f"{server.url}/v1/edits").json()["total"]
    return total


def places(tmp_path: Path, *, force: bool = False) -> Places:
    return Places(tmp_path / "out.png", None, None, force)


def test_save_sheet_names_the_file_that_cannot_be_saved(tmp_path: Path) -> None:
    with pytest.raises(CommandError, match=r"cannot save .*sheet\.webp: "):
        places(tmp_path).save_sheet(PIL.Image.new("RGB", (16400, 8)), tmp_path / "sheet.webp")

    assert list(tmp_path.iterdir()) == []


def test_save_takes_the_first_free_name(tmp_path: Path) -> None:
    wanted = tmp_path / "out.v1.png"
    (tmp_path / "out.v1-2.png").symlink_to("gone.png")

    saved = [places(tmp_path).save(data, wanted).name for data in (b"1", b"2", b"3")]

    assert saved == ["out.v1.png", "out.v1-3.png", "out.v1-4.png"]
    assert wanted.read_bytes() == b"1"
    assert not (tmp_path / "gone.png").exists()


def test_save_overwrites_with_force(tmp_path: Path) -> None:
    wanted = tmp_path / "out.png"
    wanted.write_bytes(b"old")

    assert places(tmp_path, force=True).save(b"new", wanted) == wanted
    assert wanted.read_bytes() == b"new"


def test_edit_saves_under_a_free_name_and_says_so(
    server: LiveServer, image: Path, monkeypatch: pytest.MonkeyPatch, qwen_edit: QwenEdit
) -> None:
    monkeypatch.chdir(image.parent)
    Path("out.png").write_bytes(b"mine")
    Path("sheet.png").write_bytes(b"mine, too")
    arguments = ("edit", image.name, "-p", "a", "--size", "256*256", "--compare", "sheet.png")

    done = qwen_edit(*arguments, "--server", server.url)
    forced = qwen_edit(*arguments, "--force", "--server", server.url)

    assert done.returncode == 0, done.stderr
    assert "out-2.png  256×256" in done.stdout
    assert "out.png already exists; --force overwrites it" in done.stdout
    assert "sheet.png already exists; --force overwrites it" in done.stdout
    assert forced.returncode == 0, forced.stderr
    assert "already exists" not in forced.stdout
    for name in ("out.png", "out-2.png", "sheet.png", "sheet-2.png"):
        assert Path(name).read_bytes().startswith(b"\x89PNG"), name


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("-o", "missing/out.png"), "missing/out.png does not exist: create missing first"),
        (("--compare", "missing/b.png"), "Invalid value for --compare"),
        (("-o", "folder.png"), "file 'folder.png' is a directory"),
        (
            ("--grid", "seed=1,2", "--keep-cells", "cat.png/x"),
            "cannot create cat.png/x: Not a directory",
        ),
    ],
)
def test_edit_refuses_an_unwritable_place_before_anything_is_sent(
    server: LiveServer,
    image: Path,
    monkeypatch: pytest.MonkeyPatch,
    qwen_edit: QwenEdit,
    arguments: tuple[str, ...],
    message: str,
) -> None:
    monkeypatch.chdir(image.parent)
    Path("folder.png").mkdir()
    before = count_jobs(server)

    done = qwen_edit("edit", image.name, "-p", "a", *arguments, "--server", server.url)

    assert done.returncode == 2
    assert message in done.stderr
    assert count_jobs(server) == before


@pytest.mark.parametrize(
    ("arguments", "option", "message"),
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
def test_edit_refuses_a_place_that_it_reads_or_writes_itself(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    qwen_edit: QwenEdit,
    arguments: tuple[str, ...],
    option: str,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("sub").mkdir()
    images = "1.png", "sub/../2.png", "sub/02-seed-8.png"
    for name in images:
        Path(name).write_bytes(encoded(gradient()))
    Path("link.png").symlink_to("new.png")
    before = files_of(tmp_path)

    done = qwen_edit("edit", *images, "-p", "a", *arguments, "--server", "http://127.0.0.1:9")

    assert done.returncode == 2, done.stderr
    assert f"Invalid value for {option}: " in done.stderr
    assert message in done.stderr
    assert "would be overwritten: choose another place" in done.stderr
    assert files_of(tmp_path) == before


def test_check_apart_follows_hard_links_and_survives_a_circle_of_links(tmp_path: Path) -> None:
    image, link, circle = (tmp_path / name for name in ("a.png", "link.png", "circle.png"))
    image.touch()
    link.hardlink_to(image)
    circle.symlink_to(circle)

    with pytest.raises(typer.BadParameter, match="choose another place"):
        check_apart(link, "--output", [(image, "image to edit")])
    check_apart(circle, "--output", [(image, "image to edit")])
