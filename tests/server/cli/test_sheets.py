"""`qwen-edit edit --compare` and `--grid` over a live server, and what the sheets show."""

import io
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageChops
import pytest

from server.cli.sheet import PAPER, Caption, Cell, draw_comparison, draw_grid, open_picture
from tests.conftest import encoded, gradient
from tests.live_server import LiveServer, until
from tests.lora_files import random_pairs, write_lora
from tests.server.cli.command import run, start

LINEARS = {"proj_out": (64, 64)}
CAPTION = Caption("Make it blue", (("model", "tiny"), ("seed", "4")))


def plain(color: str, size: tuple[int, int] = (256, 256)) -> PIL.Image.Image:
    return PIL.Image.new("RGB", size, color)


def places(sheet: PIL.Image.Image, color: str) -> tuple[int, int, int, int] | None:
    """The box around everything of this colour."""
    flat = PIL.Image.new("RGB", sheet.size, color)
    same = PIL.ImageChops.difference(sheet, flat).convert("L").point(lambda v: 255 * (v < 3))
    return same.getbbox()


def page_of_jobs(server: LiveServer) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/v1/edits", params={"limit": 100}).json()
    return found


def jobs(server: LiveServer) -> list[dict[str, Any]]:
    """The newest of the server's jobs."""
    found: list[dict[str, Any]] = page_of_jobs(server)["items"]
    return found


@pytest.fixture
def style(server: LiveServer) -> str:
    path = server.weights_dir / "loras" / "sheet-style.safetensors"
    write_lora(path, random_pairs(LINEARS, list(LINEARS)))
    return "sheet-style"


def test_comparison_has_inputs_left_and_the_output_right() -> None:
    sheet = draw_comparison([plain("#ff0000"), plain("#00ff00")], plain("#0000ff"), CAPTION)

    boxes = [places(sheet, color) for color in ("#ff0000", "#00ff00", "#0000ff")]
    [red, green, blue] = [box for box in boxes if box is not None]
    assert red[2] < green[0] < green[2] < blue[0]
    assert red[1] == green[1] == blue[1]
    assert sheet.getpixel((0, 0)) == PIL.Image.new("RGB", (1, 1), PAPER).getpixel((0, 0))


def test_longer_caption_makes_a_taller_sheet_and_stays_on_it() -> None:
    short = draw_comparison([plain("red")], plain("blue"), CAPTION)
    words = Caption("word " * 150, tuple((f"name {n}", "value " * 40) for n in range(6)))
    long = draw_comparison([plain("red")], plain("blue"), words)

    margin = long.crop((long.width - 40, 0, long.width, long.height))
    assert long.height > short.height
    assert margin.getcolors(2) is not None, "nothing is drawn into the margin"
    assert len(margin.getcolors(2) or ()) == 1


def test_caption_of_another_script_is_drawn() -> None:
    sheet = draw_comparison([plain("red")], plain("blue"), Caption("球を青くする" * 40, ()))
    assert sheet.height > 700


def test_grid_has_a_place_for_each_cell() -> None:
    colors = [["#110000", "#220000"], ["#330000", "#440000"], ["#550000", "#660000"]]
    cells = [
        [Cell(plain(color), f"seed {n}", f"style {r}") for n, color in enumerate(row)]
        for r, row in enumerate(colors)
    ]
    sheet = draw_grid([plain("#00ff00")], cells, CAPTION)

    boxes = [[places(sheet, color) for color in row] for row in colors]
    tops = [[box[1] for box in row if box] for row in boxes]
    lefts = [[box[0] for box in row if box] for row in boxes]
    assert [len(set(row)) for row in tops] == [1, 1, 1]
    assert tops[0] < tops[1] < tops[2]
    assert lefts[0] == lefts[1] == lefts[2]
    assert lefts[0][0] < lefts[0][1]
    assert places(sheet, "#00ff00") is not None


def test_widest_grid_fits_into_a_webp_file() -> None:
    cells = [[Cell(plain("red"), f"seed {n}", "cfg 1") for n in range(64)]]
    file = io.BytesIO()
    draw_grid([plain("red")], cells, CAPTION).save(file, "webp")
    assert file.tell()


def test_picture_with_alpha_lies_on_white() -> None:
    file = io.BytesIO(encoded(PIL.Image.new("RGBA", (8, 8), (0, 0, 0, 0))))
    assert open_picture(file).getpixel((0, 0)) == (255, 255, 255)


def test_edit_saves_a_sheet_with_before_and_after(
    server: LiveServer, picture: Path, tmp_path: Path, style: str
) -> None:
    output, sheet = tmp_path / "out.png", tmp_path / "sheet.jpg"

    done = run(
        *("edit", str(picture), "-p", "make it blue", "--lora", f"{style}:0.5", "--seed", "4"),
        *("-o", str(output), "--compare", str(sheet), "--server", server.url),
    )

    assert done.returncode == 0, done.stderr
    with PIL.Image.open(sheet) as saved, PIL.Image.open(output) as edited:
        assert saved.format == "JPEG"
        assert saved.width > 2 * edited.width
    assert "sheet.jpg" in done.stdout


def test_grid_of_scales_and_seeds_keeps_each_picture(
    server: LiveServer, picture: Path, tmp_path: Path, style: str
) -> None:
    output, kept = tmp_path / "grid.png", tmp_path / "cells"
    before = page_of_jobs(server)["total"]

    done = run(
        *("edit", str(picture), "-p", "a grid", "--lora", style, "-o", str(output)),
        *("--grid", "scale=0,0.5,1", "--grid", "seed=1,2", "--size", "256*256"),
        *("--keep-cells", str(kept), "--server", server.url),
    )

    assert done.returncode == 0, done.stderr
    assert page_of_jobs(server)["total"] == before + 6
    names = sorted(path.name for path in kept.iterdir())
    assert names[0] == "01-sheet-style-0-seed-1.png"
    assert names[5] == "06-sheet-style-1-seed-2.png"
    pictures = [open_picture(kept / name) for name in names]
    assert len({one.tobytes() for one in pictures}) == 6
    with PIL.Image.open(output) as saved:
        assert saved.width > 2 * 256


def test_cells_of_a_grid_of_scales_share_one_drawn_seed(
    server: LiveServer, picture: Path, tmp_path: Path, style: str
) -> None:
    run(
        *("edit", str(picture), "-p", "one seed", "--lora", style, "--grid", "scale=0,1"),
        *("-o", str(tmp_path / "grid.webp"), "--server", server.url),
    )

    seeds = [job["seed"] for job in jobs(server) if job["prompt"] == "one seed"]
    assert len(seeds) == 2
    assert len(set(seeds)) == 1


def test_ctrl_c_cancels_every_cell(
    start_server: Callable[..., LiveServer], picture: Path, tmp_path: Path
) -> None:
    server = start_server()
    with start(
        *("edit", str(picture), "-p", "a", "--grid", "seed=1:8:1", "--steps", "100"),
        *("-o", str(tmp_path / "grid.png"), "--server", server.url),
    ) as command:
        until(lambda: len(jobs(server)) == 8)
        command.send_signal(signal.SIGINT)
        _, said = command.communicate(timeout=30)

    assert command.returncode == 130
    assert "canceled 8 of 8" in said
    states = until(lambda: (s := {job["status"] for job in jobs(server)}) <= {"canceled"} and s)
    assert states == {"canceled"}
    assert not (tmp_path / "grid.png").exists()


def test_cell_that_is_refused_cancels_the_others_and_is_said(
    start_server: Callable[..., LiveServer], picture: Path, tmp_path: Path
) -> None:
    server = start_server(MAX_WAITING_JOBS=2, wait_ready=False)
    done = run(
        *("edit", str(picture), "-p", "a", "--grid", "seed=1:8:1", "--steps", "100"),
        *("-o", str(tmp_path / "grid.png"), "--server", server.url),
    )

    assert done.returncode == 1
    assert "2 jobs wait, and the server takes at most 2" in done.stderr
    assert until(lambda: all(job["status"] == "canceled" for job in jobs(server)))


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


def test_picture_turned_by_its_camera_is_turned_back(tmp_path: Path) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    path = tmp_path / "turned.jpg"
    path.write_bytes(encoded(gradient(96, 64), "JPEG", exif=exif))
    assert open_picture(path).size == (64, 96)
