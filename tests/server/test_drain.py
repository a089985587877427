"""A live server that is told to stop."""

import signal
import socket
import sqlite3
import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.fake_worker import HANG
from tests.live_server import LONG, LiveServer, until
from tests.server.contracts.owners import (
    BODY,
    FAL_MODELS,
    OPENAI,
    SUBMIT_PATHS,
    WAVESPEED,
    body_of,
)

FAL_RUN = f"/run{FAL_MODELS[0]}"
# The time from the end of the drain to the end of the process.
STOP_S = 5.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def start(model: Path, folder: Path, **settings: object) -> LiveServer:
    return LiveServer(model, folder, **settings).start()


def submit(server: LiveServer, **changes: Any) -> str:
    """Submit a native edit and wait until it runs."""
    answer = server.http.post(f"{server.url}/v1/edits", json=BODY | changes)
    job_id: str = answer.json()["id"]
    until(lambda: edit(server, job_id)["status"] == "running")
    return job_id


def edit(server: LiveServer, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}/v1/edits/{job_id}").json()
    return found


def counts(server: LiveServer, job_id: str) -> tuple[str, int, int]:
    """The row of a job while no server runs: its status, starts and attempts."""
    with sqlite3.connect(server.data_dir / "jobs.sqlite3") as connection:
        found: tuple[str, int, int] = connection.execute(
            "SELECT status, starts, attempts FROM jobs WHERE id = ?", (job_id,)
        ).fetchone()
    return found


def test_running_edit_ends_and_everybody_who_waits_is_answered(
    tiny_model: Path, tmp_path: Path, pool: ThreadPoolExecutor
) -> None:
    server = start(tiny_model, tmp_path, DRAIN_S=60)

    def post(path: str, **changes: Any) -> Future[httpx2.Response]:
        headers = {"Idempotency-Key": "kept"} if changes.pop("keyed", False) else {}
        body = body_of(path) | changes
        return pool.submit(server.http.post, server.url + path, json=body, headers=headers)

    try:
        running = submit(server, num_inference_steps=25, size="1024*1024")
        own = pool.submit(server.http.get, f"{server.url}/v1/edits/{running}/events")
        waiting = {
            "wavespeed": post(WAVESPEED, enable_sync_mode=True),
            "native": post("/v1/edits?wait=60"),
            "openai": post(OPENAI, prompt="b"),
            "stream": post(OPENAI, prompt="c", stream=True),
            "keyed": post(OPENAI, prompt="d", keyed=True),
            "fal": post(FAL_RUN),
        }
        until(lambda: server.health()["waiting"] == len(waiting))

        server.process.send_signal(signal.SIGTERM)
        until(lambda: server.http.get(f"{server.url}/health/ready").status_code == 503)
        refused = [
            server.http.post(server.url + path, json=body_of(path))
            for path in (*SUBMIT_PATHS, OPENAI)
        ]
        answers = {name: answer.result() for name, answer in waiting.items()}
        still_running = edit(server, running)
        code = server.process.wait(timeout=60)
        events = own.result().text
        server.start()
        statuses = {name: edit(server, ids)["status"] for name, ids in ids_of(answers).items()}
        until(lambda: edit(server, ids_of(answers)["keyed"])["status"] == "succeeded")
        repeated = post(OPENAI, prompt="d", keyed=True).result()
    finally:
        server.close()

    assert code == 0
    assert still_running["status"] == "running"
    assert '"succeeded"' in events
    for answer in refused:
        assert answer.status_code == 503, answer.text
        assert int(answer.headers["retry-after"]) > 0
        assert "The server is stopping." in answer.text
    prediction = answers["wavespeed"].json()["data"]
    assert (prediction["status"], prediction["code"]) == ("processing", 5004)
    assert prediction["error"].startswith("The server is restarting.")
    assert answers["native"].json()["status"] == "queued"
    assert [answers[name].status_code for name in ("openai", "keyed", "fal")] == [503] * 3
    assert "The server is stopping" in answers["stream"].text
    # nobody can get these results any more, and a retry would run them twice
    assert [statuses[name] for name in ("openai", "stream", "fal")] == ["canceled"] * 3
    assert repeated.headers["x-request-id"] == answers["keyed"].headers["x-request-id"]


def ids_of(answers: dict[str, httpx2.Response]) -> dict[str, str]:
    return {
        "native": answers["native"].json()["id"],
        "wavespeed": answers["wavespeed"].json()["data"]["id"],
        "fal": answers["fal"].headers["x-fal-request-id"],
        **{name: answers[name].headers["x-request-id"] for name in ("openai", "stream", "keyed")},
    }


def test_edit_that_outlasts_the_drain_is_queued_again_without_an_attempt(
    tiny_model: Path, tmp_path: Path
) -> None:
    server = start(tiny_model, tmp_path, DRAIN_S=1)
    try:
        running = submit(server, **LONG)
        queued = server.http.post(f"{server.url}/v1/edits", json=BODY).json()["id"]

        seconds = server.stop()
    finally:
        server.close()

    assert 1 <= seconds < 1 + STOP_S
    assert server.process.returncode == 0
    assert counts(server, running) == ("queued", 0, 0)
    assert counts(server, queued) == ("queued", 0, 0)


@pytest.mark.parametrize(
    "signals", [[signal.SIGINT], [signal.SIGTERM, signal.SIGTERM], [signal.SIGTERM, signal.SIGINT]]
)
def test_sigint_and_a_second_signal_stop_at_once(
    tiny_model: Path, tmp_path: Path, signals: list[signal.Signals]
) -> None:
    server = start(tiny_model, tmp_path, DRAIN_S=600)
    try:
        submit(server, **LONG)
        began = time.monotonic()
        for number in signals[:-1]:
            server.process.send_signal(number)
            # two that are pending at once would be one
            until(lambda: server.http.get(f"{server.url}/health/ready").status_code == 503)
        server.process.send_signal(signals[-1])
        code = server.process.wait(timeout=60)
        seconds = time.monotonic() - began
    finally:
        server.close()

    assert code == 0
    assert seconds < STOP_S


def test_nothing_holds_up_the_stop(tiny_model: Path, tmp_path: Path) -> None:
    """Neither a hung worker, nor a download that never ends, nor a half-sent body."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/a.png"
        server = start(tiny_model, tmp_path, DRAIN_S=1, ALLOW_NETWORKS="127.0.0.0/8")
        try:
            hung = submit(server, prompt=HANG)
            body = BODY | {"images": [url]}
            fetched = server.http.post(f"{server.url}/v1/edits", json=body).json()["id"]
            download, _ = silent.accept()
            head = httpx2.Request("POST", f"{server.url}/v1/edits", json=BODY)
            head.headers["content-length"] = "100000"
            with download, server.send(head):
                seconds = server.stop()
        finally:
            server.close()

    assert seconds < 1 + STOP_S
    assert server.process.returncode == 0
    assert counts(server, hung)[0] == "queued"
    assert counts(server, fetched)[0] == "queued"
