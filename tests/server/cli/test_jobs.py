"""`qwen-edit jobs`: what it lists, and that it fits a terminal."""

import io
from typing import Any

import pytest
from rich.console import Console

from server.cli.console import shown_age
from server.cli.jobs import table_of
from tests.live_server import LiveServer, until
from tests.server.cli.command import run

NOW = 1_700_000_000.0
JOB: dict[str, Any] = {
    "id": "0123456789abcdef" * 2,
    "status": "succeeded",
    "contract": "provider_queue",
    "prompt": "make the circle green,\nand the background a deep and cloudless blue",
    "position": None,
    "step": 8,
    "steps": 8,
    "created_at": NOW - 200,
    "started_at": NOW - 100,
    "finished_at": NOW - 87.5,
}
RUNNING = {**JOB, "status": "running", "step": 3, "steps": 40, "finished_at": None}
WAITING = {**JOB, "status": "queued", "position": 99, "steps": None, "started_at": None}
CANCELED = {**JOB, "status": "canceled", "steps": None, "started_at": None}


def rendered(width: int, *jobs: dict[str, Any]) -> list[str]:
    file = io.StringIO()
    Console(file=file, width=width).print(table_of(list(jobs), NOW, width))
    return [line.rstrip() for line in file.getvalue().splitlines()]


def test_table_fits_80_columns_with_whole_ids_and_shortened_prompts() -> None:
    lines = rendered(80, JOB, RUNNING, WAITING, {**JOB, "prompt": "[red] it"})

    assert len(lines) == 5, "each job is on one line"
    assert max(map(len, lines)) <= 80
    assert all(JOB["id"] in line for line in lines[1:])
    assert lines[1].split()[1:5] == ["3m", "succeeded", "12.5s", "make"]
    assert lines[1].endswith("…")
    assert lines[2].split()[2:4] == ["running", "3/40"]
    assert lines[3].split()[2:5] == ["queued", "99", "ahead"]
    assert lines[4].endswith("[red] it")


def test_table_names_the_contract_where_there_is_room() -> None:
    [head, line] = rendered(160, CANCELED)

    assert head.split() == ["id", "age", "status", "took", "contract", "prompt"]
    prompt = "make the circle green, and the background a deep and cloudless blue"
    assert line.endswith(f"provider_queue  {prompt}")


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(-5, "0s"), (0.4, "0s"), (59.9, "59s"), (60, "1m"), (7199, "1h"), (90000, "1d"), (1e6, "11d")],
)
def test_age_is_shown_in_its_largest_unit(seconds: float, shown: str) -> None:
    assert shown_age(seconds) == shown


def test_jobs_of_a_server_are_listed_with_the_time_they_ran(
    server: LiveServer, image_base64: str
) -> None:
    """The wait for another job is not counted."""
    body = {"images": [image_base64], "size": "256*256"}
    edits = f"{server.url}/v1/edits"
    server.http.post(edits, json={**body, "prompt": "before", "num_inference_steps": 100})
    job = server.http.post(edits, json={**body, "prompt": "a listed prompt"}).json()
    job = until(lambda: (j := server.http.get(f"{edits}/{job['id']}").json())["outputs"] and j)

    done = run("jobs", "--limit", "1", QWEN_EDIT_SERVER=server.url, COLUMNS="80")

    assert done.returncode == 0, done.stderr
    [row] = [line.split() for line in done.stdout.splitlines() if job["id"] in line]
    ran = f"{job['finished_at'] - job['started_at']:.1f}s"
    assert row[2:] == ["succeeded", ran, "a", "listed", "prompt"]
