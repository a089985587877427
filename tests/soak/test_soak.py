"""Many jobs while everything goes wrong: none is lost, none runs twice, nothing is left behind."""

import io
import json
import os
import re
import shutil
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import PIL.Image
import pytest

from server.errors import ServerLost, WorkerLost
from tests.live_server import LiveServer, until
from tests.server.contracts.owners import FAL_MODELS, OPENAI, WAVESPEED, body_of
from tests.small_disk import SmallDisk, small_disk
from tests.soak.chaos import Chaos

JOBS = int(os.environ.get("QWEN_SOAK_JOBS", "24"))
SEED = int(os.environ.get("QWEN_SOAK_SEED", "11"))
# A job is interrupted twice before it fails, and the server may be killed ten times.
ROUNDS = min(9, max(1, JOBS // 20))
CLIENTS = 8
# A hang that strikes a loading worker is found after two minutes.
PATIENCE_S = 180.0 + 5 * JOBS
PATHS = (WAVESPEED, "/v1/queue/qwen_image_edit_plus", "/v1/edits", OPENAI, f"/run{FAL_MODELS[0]}")
FINAL = ("succeeded", "failed", "canceled")
# The ends that a job may have when its workers were killed under it.
EXCUSED = ("worker_lost", "server_lost")
# How a contract without a job in its answer tells of them.
EXCUSE = re.compile("|".join(re.escape(str(kind())) for kind in (WorkerLost, ServerLost)))
SUCCEEDED = re.compile(r"job ([0-9a-f]{32}) succeeded")


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    with small_disk(tmp_path / "data", "64m") as disk:
        yield disk


@pytest.fixture
def server(tiny_model: Path, tmp_path: Path, disk: SmallDisk) -> Iterator[LiveServer]:
    server = LiveServer(
        tiny_model,
        tmp_path,
        launcher=disk.launcher,
        STEP_TIMEOUT_S=2,
        MAX_WAITING_JOBS=JOBS + 1,
        SYNC_TIMEOUT_S=600,
    )
    try:
        yield server.start()
    finally:
        server.close()


def submit(server: LiveServer, number: int, deadline: float) -> str:
    """Submit one edit until it is accepted or done; its prompt is its number."""
    path = PATHS[number % len(PATHS)]
    body = body_of(path) | {"prompt": f"edit {number}", "num_inference_steps": 10, "seed": number}
    headers = {"Idempotency-Key": f"edit {number}"}
    while time.monotonic() < deadline:
        try:
            answer = httpx2.post(server.url + path, json=body, headers=headers, timeout=60)
        except httpx2.HTTPError:
            # killed in mid-answer: the same key finds the job, if there is one
            continue
        if answer.status_code in (200, 201):
            return answer.text
        if answer.status_code == 500 and EXCUSE.search(answer.text):
            # the end of the job, which its key answers from now on
            return answer.text
        assert answer.status_code in (429, 500, 503, 507), answer.text
        time.sleep(0.1)
    raise AssertionError(f"edit {number} was not accepted in {PATIENCE_S:g} s")


def rows(folder: Path) -> list[dict[str, Any]]:
    with sqlite3.connect(folder / "jobs.sqlite3") as connection:
        connection.row_factory = sqlite3.Row
        assert connection.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
        found = connection.execute("SELECT * FROM jobs")
        return [
            {
                **dict(row),
                "prompt": json.loads(row["request"])["params"]["prompt"],
                "result": json.loads(row["result"]),
            }
            for row in found
        ]


def all_ended(server: LiveServer) -> bool:
    try:
        health = httpx2.get(f"{server.url}/health", timeout=60).json()
    except httpx2.HTTPError:
        return False
    return bool(health["waiting"] == health["running"] == 0)


def assert_nothing_is_lost(found: list[dict[str, Any]]) -> None:
    assert {row["prompt"] for row in found} == {f"edit {number}" for number in range(JOBS)}
    for row in found:
        assert row["status"] in FINAL, row
        assert row["status"] != "canceled", row
        if row["status"] == "failed":
            assert row["result"]["error"]["code"] in EXCUSED, row
    done = Counter(row["prompt"] for row in found if row["status"] == "succeeded")
    assert not [prompt for prompt, times in done.items() if times > 1]
    # chance decides which jobs lose their worker twice; most do not
    assert len(done) > 0.7 * JOBS


def assert_outputs_are_whole(folder: Path, found: list[dict[str, Any]]) -> None:
    named = [output for row in found for output in row["result"].get("outputs", ())]
    for output in named:
        data = (folder / "outputs" / output["name"]).read_bytes()
        assert len(data) == output["size_bytes"]
        with PIL.Image.open(io.BytesIO(data)) as image:
            image.load()
            assert image.size == (output["width"], output["height"])
    left = {path.name for path in (folder / "outputs").iterdir()}
    assert left == {output["name"] for output in named}
    assert list((folder / "inputs").iterdir()) == []


def test_jobs_survive_kills_hangs_and_a_full_disk(
    server: LiveServer, disk: SmallDisk, tmp_path: Path
) -> None:
    print(f"QWEN_SOAK_SEED={SEED}")
    deadline = time.monotonic() + PATIENCE_S
    chaos = Chaos(server, disk, SEED, ROUNDS)
    trouble = threading.Thread(target=chaos.run)
    trouble.start()
    try:
        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(submit, server, number, deadline) for number in range(JOBS)]
            answers = [client.result() for client in clients]
    finally:
        trouble.join()
    assert chaos.failure is None
    until(lambda: all_ended(server), PATIENCE_S)
    # leftovers of a kill are removed at the next start
    server.stop()
    server.start()
    server.stop()

    assert len(answers) == JOBS
    # SQLite resolves the links in its path, which would lead out of the namespace
    data = tmp_path / "copy"
    shutil.copytree(disk.folder, data)
    found = rows(data)
    assert_nothing_is_lost(found)
    assert_outputs_are_whole(data, found)
    succeeded = Counter(SUCCEEDED.findall(server.log()))
    assert not [job_id for job_id, times in succeeded.items() if times > 1]
    assert "Traceback" not in server.log()
