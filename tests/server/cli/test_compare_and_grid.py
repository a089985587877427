"""`qwen-edit edit --compare` and `--grid` over a live server."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from server.cli.contact_sheet import open_image
from tests.live_server import LiveServer, until
from tests.lora_files import random_pairs, write_lora
from tests.server.cli.command import RUN_TIMEOUT_S, run, start

LINEARS = {"proj_out": (64, 64)}
# A cancel is looked at between steps. What a cancel has to find still running gets so many steps
# that even where the command and the test are slow, they take longer: 14 s of large ones, 2 s of
# those that come after a cell to be kept, which is decoded at the same size.
LARGE, MEDIUM = ("--size", "1024*1024"), ("--size", "512*512")


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


def test_edit_saves_a_sheet_with_before_and_after(
    server: LiveServer, image: Path, tmp_path: Path, style: str
) -> None:
    output, sheet = tmp_path / "out.png", tmp_path / "sheet.jpg"

    done = run(
        *("edit", str(image), "-p", "make it blue", "--lora", f"{style}:0.5", "--seed", "4"),
        *("-o", str(output), "--compare", str(sheet), "--server", server.url),
    )

    assert done.returncode == 0, done.stderr
    with PIL.Image.open(sheet) as saved, PIL.Image.open(output) as edited:
        assert saved.format == "JPEG"
        assert saved.width > 2 * edited.width
    assert "sheet.jpg" in done.stdout


def test_grid_of_scales_and_seeds_keeps_each_image(
    server: LiveServer, image: Path, tmp_path: Path, style: str
) -> None:
    output, kept = tmp_path / "grid.png", tmp_path / "cells"
    before = page_of_jobs(server)["total"]

    done = run(
        *("edit", str(image), "-p", "a grid", "--lora", style, "-o", str(output)),
        *("--grid", "scale=0,0.5,1", "--grid", "seed=1,2", "--size", "256*256"),
        *("--keep-cells", str(kept), "--server", server.url),
    )

    assert done.returncode == 0, done.stderr
    assert page_of_jobs(server)["total"] == before + 6
    names = sorted(path.name for path in kept.iterdir())
    assert names[0] == "01-sheet-style-0-seed-1.png"
    assert names[5] == "06-sheet-style-1-seed-2.png"
    images = [open_image(kept / name) for name in names]
    assert len({one.tobytes() for one in images}) == 6
    with PIL.Image.open(output) as saved:
        assert saved.width > 2 * 256


def test_cells_of_a_grid_of_scales_share_one_drawn_seed(
    server: LiveServer, image: Path, tmp_path: Path, style: str
) -> None:
    run(
        *("edit", str(image), "-p", "one seed", "--lora", style, "--grid", "scale=0,1"),
        *("-o", str(tmp_path / "grid.webp"), "--server", server.url),
    )

    seeds = [job["seed"] for job in jobs(server) if job["prompt"] == "one seed"]
    assert len(seeds) == 2
    assert len(set(seeds)) == 1


def test_ctrl_c_cancels_every_cell(
    start_server: Callable[..., LiveServer], image: Path, tmp_path: Path
) -> None:
    server = start_server()
    with start(
        *("edit", str(image), "-p", "a", "--grid", "seed=1:8:1", "--steps", "100", *LARGE),
        *("-o", str(tmp_path / "grid.png"), "--server", server.url),
    ) as command:
        until(lambda: len(jobs(server)) == 8)
        command.send_signal(signal.SIGINT)
        _, message = command.communicate(timeout=RUN_TIMEOUT_S)

    assert command.returncode == 130
    assert "canceled 8 of 8" in message
    states = until(lambda: (s := {job["status"] for job in jobs(server)}) <= {"canceled"} and s)
    assert states == {"canceled"}
    assert not (tmp_path / "grid.png").exists()


def test_cell_that_is_refused_cancels_the_others_and_is_said(
    start_server: Callable[..., LiveServer], image: Path, tmp_path: Path
) -> None:
    server = start_server(MAX_WAITING_JOBS=2, wait_ready=False)
    done = run(
        *("edit", str(image), "-p", "a", "--grid", "seed=1:8:1", "--steps", "100", *LARGE),
        *("-o", str(tmp_path / "grid.png"), "--server", server.url),
    )

    assert done.returncode == 1
    assert "2 jobs wait, and the server takes at most 2" in done.stderr
    assert until(lambda: all(job["status"] == "canceled" for job in jobs(server)))


def test_finished_cells_are_kept_when_ctrl_c_comes(
    start_server: Callable[..., LiveServer], image: Path, tmp_path: Path
) -> None:
    server, kept = start_server(), tmp_path / "kept" / "cells"
    with start(
        *("edit", str(image), "-p", "a", "--grid", "steps=2,99,100", *MEDIUM),
        *("-o", str(tmp_path / "grid.png"), "--keep-cells", str(kept), "--server", server.url),
    ) as command:
        until(lambda: kept.is_dir() and list(kept.iterdir()))
        command.send_signal(signal.SIGINT)
        message, _ = command.communicate(timeout=RUN_TIMEOUT_S)

    assert command.returncode == 130
    assert [path.name for path in kept.iterdir()] == ["01-steps-2.png"]
    assert open_image(kept / "01-steps-2.png").size == (512, 512)
    assert f"1 of 3 images in {kept}" in message


def test_finished_cells_are_kept_when_a_later_one_fails(
    start_server: Callable[..., LiveServer], image: Path, tmp_path: Path
) -> None:
    server, kept = start_server(), tmp_path / "cells"
    with start(
        *("edit", str(image), "-p", "a", "--grid", "steps=2,100", *MEDIUM),
        *("-o", str(tmp_path / "grid.png"), "--keep-cells", str(kept), "--server", server.url),
    ) as command:
        until(lambda: kept.is_dir() and list(kept.iterdir()))
        [last] = [job["id"] for job in jobs(server) if job["status"] != "succeeded"]
        server.http.delete(f"{server.url}/v1/edits/{last}").raise_for_status()
        shown, message = command.communicate(timeout=RUN_TIMEOUT_S)

    assert command.returncode == 1
    assert "the edit was canceled" in message
    assert [path.name for path in kept.iterdir()] == ["01-steps-2.png"]
    assert f"1 of 2 images in {kept}" in shown


def test_cell_that_cannot_be_kept_cancels_the_others_and_is_said(
    start_server: Callable[..., LiveServer], image: Path, tmp_path: Path
) -> None:
    server, kept = start_server(), tmp_path / "cells"
    # a folder where an image should go: a fault that no check before can foresee
    (kept / "01-steps-2.png").mkdir(parents=True)
    done = run(
        *("edit", str(image), "-p", "a", "--grid", "steps=2,98,99,100", *MEDIUM),
        *("-o", str(tmp_path / "grid.png"), "--keep-cells", str(kept), "--server", server.url),
    )

    assert done.returncode == 1
    assert "01-steps-2.png cannot be saved: Is a directory" in done.stderr
    assert "Traceback" not in done.stderr
    ended = {"succeeded", "canceled"}
    states = until(lambda: (s := {job["status"] for job in jobs(server)}) <= ended and s)
    assert states == ended
