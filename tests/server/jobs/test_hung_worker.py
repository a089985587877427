"""Worker processes that hang or whose device fails, under a live server."""

import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.conftest import as_base64, encoded
from tests.fake_worker import DEVICE_FAILURE, HANG
from tests.live_server import LiveServer, until

STEP_TIMEOUT_S = 3
FINAL = ("succeeded", "failed", "canceled")


@pytest.fixture(scope="module")
def watching_server(
    tiny_model: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server with a fake worker that may be silent for a few seconds."""
    folder = tmp_path_factory.mktemp("watching")
    server = LiveServer(tiny_model, folder, STEP_TIMEOUT_S=STEP_TIMEOUT_S)
    yield server.start()
    server.close()


def post(server: LiveServer, body: dict[str, Any]) -> str:
    answer = server.http.post(f"{server.url}/v1/edits", json=body)
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def ended(server: LiveServer, job_id: str) -> dict[str, Any]:
    def final() -> dict[str, Any] | None:
        found: dict[str, Any] = server.http.get(f"{server.url}/v1/edits/{job_id}").json()
        return found if found["status"] in FINAL else None

    return until(final)


def test_job_that_hangs_two_workers_fails_and_the_next_runs(
    watching_server: LiveServer, body: dict[str, Any]
) -> None:
    server = watching_server
    hanging, healthy = post(server, body | {"prompt": HANG}), post(server, body)

    failed = ended(server, hanging)
    assert failed["error"]["code"] == "worker_lost"
    assert f"after {STEP_TIMEOUT_S} s without progress" in failed["error"]["message"]
    assert ended(server, healthy)["status"] == "succeeded"


def test_large_image_for_a_worker_that_reads_nothing_blocks_no_delete(
    watching_server: LiveServer, body: dict[str, Any]
) -> None:
    server = watching_server
    until(lambda: server.health()["status"] == "ready")
    [worker] = server.worker_pids()
    # it reads nothing, and noise does not compress: 3 MB fill the socket
    os.kill(worker, signal.SIGSTOP)
    noise = np.random.default_rng(0).integers(0, 256, (1024, 1024, 3), dtype=np.uint8)
    job_id = post(server, body | {"images": [as_base64(encoded(PIL.Image.fromarray(noise)))]})
    until(lambda: server.health()["running"] == 1)

    start = time.monotonic()
    answer = server.http.delete(f"{server.url}/v1/edits/{job_id}")
    seconds = time.monotonic() - start

    assert answer.status_code == 202
    # before, it waited for the socket: until the worker was killed
    assert seconds < STEP_TIMEOUT_S
    assert ended(server, job_id)["status"] == "canceled"
    assert ended(server, post(server, body))["status"] == "succeeded"


def test_worker_whose_device_fails_is_replaced(
    watching_server: LiveServer, body: dict[str, Any]
) -> None:
    server = watching_server
    until(lambda: server.health()["status"] == "ready")
    [worker] = server.worker_pids()
    broken, healthy = post(server, body | {"prompt": DEVICE_FAILURE}), post(server, body)

    failed = ended(server, broken)
    assert failed["error"]["code"] == "device_failed"
    assert "CUDA error: an illegal memory access" in failed["error"]["message"]
    assert ended(server, healthy)["status"] == "succeeded"
    # the next job was given to no dying worker
    assert "was killed" not in server.log().partition(f"job {healthy} started")[2]
    assert worker not in server.worker_pids()
