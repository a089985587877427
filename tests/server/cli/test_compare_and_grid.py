"""`qwen-edit edit` with `--compare` and `--grid` over a live server."""

import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from server.cli.contact_sheet import open_image
from tests.live_server import LiveServer, until
from tests.lora_files import random_pairs, write_lora
from tests.server.cli.command import RUN_TIMEOUT_S, QwenEdit, start

LINEARS = {"proj_out": (64, 64)}
# A cancel takes effect between steps. A job that a cancel must find running has so many steps that
# it outlasts a slow command and a slow test.
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


def test_compare_saves_a_sheet_of_before_and_after(
    server: LiveServer, image: Path, tmp_path: Path, style: str, qwen_edit: QwenEdit
) -> None:
    output, sheet = tmp_path / "out.png", tmp_path / "sheet.jpg"

    done = qwen_edit(
        *("edit", str(image), "-p", "make it blue", "--lora", f"{style}:0.5", "--seed", "4"),
        *("-o", str(output), "--compare", str(sheet), "--server", server.url),
    )

    assert done.returncode == 0, done.stderr
    with PIL.Image.open(sheet) as saved, PIL.Image.open(output) as edited:
        assert saved.format == "JPEG"
        assert saved.width > 2 * edited.width
    assert "sheet.jpg" in done.stdout


def test_grid_saves_a_sheet_and_keeps_each_image(
    server: LiveServer, image: Path, tmp_path: Path, style: str, qwen_edit: QwenEdit
) -> None:
    output, kept = tmp_path / "grid.png", tmp_path / "cells"
    before = page_of_jobs(server)["total"]

    done = qwen_edit(
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

    again = qwen_edit(
        *("edit", str(image), "-p", "a grid", "-o", str(output), "--grid", "seed=1,2"),
        *("--size", "256*256", "--keep-cells", str(kept), "--server", server.url),
    )
    once_more = qwen_edit(
        *("edit", str(image), "-p", "a grid", "-o", str(output), "--grid", "seed=1,2"),
        *("--size", "256*256", "--keep-cells", str(kept), "--server", server.url),
    )
    assert "grid-2.png" in again.stdout
    assert "under a new name" not in again.stdout
    assert f"2 of 2 images in {kept}, 2 under a new name; --force overwrites" in once_more.stdout
    assert len(list(kept.iterdir())) == 10


def test_grid_of_scales_uses_one_random_seed(
    server: LiveServer, image: Path, tmp_path: Path, style: str, qwen_edit: QwenEdit
) -> None:
    qwen_edit(
        *("edit", str(image), "-p", "one seed", "--lora", style, "--grid", "scale=0,1"),
        *("-o", str(tmp_path / "grid.webp"), "--server", server.url),
    )

    seeds = [job["seed"] for job in jobs(server) if job["prompt"] == "one seed"]
    assert len(seeds) == 2
    assert len(set(seeds)) == 1


def test_grid_cancels_every_cell_on_ctrl_c(
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


def test_grid_cancels_all_cells_when_one_is_refused(
    start_server: Callable[..., LiveServer], image: Path, tmp_path: Path, qwen_edit: QwenEdit
) -> None:
    server = start_server(MAX_WAITING_JOBS=2, wait_ready=False)
    done = qwen_edit(
        *("edit", str(image), "-p", "a", "--grid", "seed=1:8:1", "--steps", "100", *LARGE),
        *("-o", str(tmp_path / "grid.png"), "--server", server.url),
    )

    assert done.returncode == 1
    assert "2 jobs wait, and the server takes at most 2" in done.stderr
    assert until(lambda: all(job["status"] == "canceled" for job in jobs(server)))


def test_grid_keeps_finished_cells_on_ctrl_c(
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


def test_grid_keeps_finished_cells_when_a_later_one_fails(
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


def test_grid_cancels_the_other_cells_when_one_cannot_be_kept(
    start_server: Callable[..., LiveServer], image: Path, tmp_path: Path, qwen_edit: QwenEdit
) -> None:
    server, kept = start_server(), tmp_path / "cells"
    # a folder in place of an image: a fault that no check finds beforehand
    (kept / "01-steps-2.png").mkdir(parents=True)
    done = qwen_edit(
        *("edit", str(image), "-p", "a", "--grid", "steps=2,98,99,100", "--force", *MEDIUM),
        *("-o", str(tmp_path / "grid.png"), "--keep-cells", str(kept), "--server", server.url),
    )

    assert done.returncode == 1
    assert f"error: cannot save {kept}/01-steps-2.png: Is a directory" in done.stderr
    ended = {"succeeded", "canceled"}
    states = until(lambda: (s := {job["status"] for job in jobs(server)}) <= ended and s)
    assert states == ended
