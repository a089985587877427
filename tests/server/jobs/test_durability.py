"""Kills, restarts and cancels over a live server: no accepted job is lost, no worker left over.

Every test runs with the fake worker; CI runs all of them with the real one too.
"""

import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from server.job import JobStatus
from tests.live_server import LONG, LiveServer, events, is_alive, until

# seconds of work on any machine, for jobs that are killed and done once more
MEDIUM = {"num_inference_steps": 40, "size": "512*512"}


@pytest.fixture(scope="module")
def one_server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory, worker: str
) -> Iterator[LiveServer]:
    """The server of `mortal_server`."""
    server = LiveServer(tiny_model, tmp_path_factory.mktemp("mortal"), worker=worker)
    yield server
    server.close()


@pytest.fixture
def mortal_server(one_server: LiveServer) -> LiveServer:
    """A server that the test may kill; the next test restarts it on the same folders."""
    if not one_server.is_running:
        one_server.start(wait_ready=False)
    # first, so that no leftover is waited for
    one_server.forget_edits()
    until(lambda: one_server.health()["status"] == "ready")
    return one_server


def submit(server: LiveServer, body: dict[str, Any]) -> str:
    answer = server.http.post(f"{server.url}/v1/edits", json=body)
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    return job_id


def job(server: LiveServer, job_id: str) -> dict[str, Any]:
    answer: dict[str, Any] = server.http.get(f"{server.url}/v1/edits/{job_id}").json()
    return answer


def wait_for(server: LiveServer, job_id: str, *statuses: JobStatus) -> dict[str, Any]:
    def reached() -> dict[str, Any] | None:
        found = job(server, job_id)
        return found if found["status"] in statuses else None

    return until(reached)


def wait_for_step(server: LiveServer, job_id: str) -> None:
    """Until the job has done a step, so that a kill comes in the middle of its work."""
    until(lambda: job(server, job_id)["step"])


def test_stopped_worker_does_not_outlive_its_server(mortal_server: LiveServer) -> None:
    [worker] = mortal_server.worker_pids()
    # it cannot notice that its socket closes
    os.kill(worker, signal.SIGSTOP)
    mortal_server.kill()

    until(lambda: not is_alive(worker), 10)


@pytest.mark.parametrize(
    "victims", ["server", "worker", pytest.param("both", marks=pytest.mark.real_worker)]
)
def test_kill_9_loses_no_job_and_leaves_no_worker(
    mortal_server: LiveServer, body: dict[str, Any], victims: str
) -> None:
    server = mortal_server
    running, *queued = [submit(server, body | MEDIUM), submit(server, body), submit(server, body)]
    wait_for_step(server, running)
    [worker] = server.worker_pids()

    if victims in ("worker", "both"):
        os.kill(worker, signal.SIGKILL)
    if victims in ("server", "both"):
        server.kill()
        until(lambda: not is_alive(worker))
        server.start()

    for job_id in (running, *queued):
        assert wait_for(server, job_id, *FINAL)["status"] == "succeeded"
    assert not is_alive(worker)
    # not their ends: the files of one are written while the next one runs
    order = [job(server, job_id)["started_at"] for job_id in (running, *queued)]
    assert order == sorted(order)


FINAL = (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED)


def test_restart_removes_the_outputs_of_cut_off_jobs_and_keeps_older_files(
    mortal_server: LiveServer, body: dict[str, Any]
) -> None:
    server = mortal_server
    cut_off = submit(server, body | LONG)
    wait_for(server, cut_off, JobStatus.RUNNING)
    server.kill()
    outputs = server.data_dir / "outputs"
    orphan, older = outputs / f"{'a' * 32}.png", outputs / f"{'b' * 32}.png"
    for path in (orphan, older):
        path.write_bytes(b"written before its job ended")
    # an hour old: it may be of a database that was moved aside, and has not expired
    os.utime(older, (time.time() - 3600,) * 2)

    server.start(wait_ready=False)
    # answered once the start is done
    server.health()

    assert not orphan.exists()
    assert older.exists()
    older.unlink()


def test_job_that_kills_its_worker_twice_fails_and_the_next_runs(
    mortal_server: LiveServer, body: dict[str, Any]
) -> None:
    server = mortal_server
    poison, healthy = submit(server, body | LONG), submit(server, body)
    for starts in (1, 2):
        # the step of the first time is forgotten by then
        until(lambda starts=starts: server.log().count(f"job {poison} started") == starts)
        wait_for_step(server, poison)
        [worker] = server.worker_pids()
        os.kill(worker, signal.SIGKILL)

    failed = wait_for(server, poison, *FINAL)
    assert failed["error"]["code"] == "worker_lost"
    assert "SIGKILL" in failed["error"]["message"]
    assert wait_for(server, healthy, *FINAL)["status"] == "succeeded"


def test_worker_that_dies_while_idle_is_replaced(
    mortal_server: LiveServer, body: dict[str, Any]
) -> None:
    server = mortal_server
    [worker] = server.worker_pids()
    os.kill(worker, signal.SIGKILL)
    until(lambda: server.worker_pids() not in ([], [worker]))

    done = wait_for(server, submit(server, body), *FINAL)
    assert done["status"] == "succeeded"


def test_second_server_on_the_same_data_folder_names_the_first(
    mortal_server: LiveServer, body: dict[str, Any]
) -> None:
    first = mortal_server
    second = LiveServer(first.folder / "nowhere", first.folder)
    with pytest.raises(AssertionError, match="the server ended with 2"):
        second.start()
    second.close()

    assert f"is in use by another server (process {first.process.pid})" in first.log()
    assert wait_for(first, submit(first, body), *FINAL)["status"] == "succeeded"


@pytest.mark.real_worker
def test_cancel_of_a_running_job_ends_it_at_a_step_and_frees_the_worker(
    mortal_server: LiveServer, body: dict[str, Any]
) -> None:
    server = mortal_server
    running, waiting = submit(server, body | LONG), submit(server, body)
    wait_for_step(server, running)

    answer = server.http.delete(f"{server.url}/v1/edits/{running}")

    assert answer.status_code == 202
    canceled = wait_for(server, running, *FINAL)
    assert canceled["status"] == "canceled"
    assert canceled["outputs"] == []
    assert wait_for(server, waiting, *FINAL)["status"] == "succeeded"


def test_cancel_of_a_queued_job_is_at_once_and_moves_the_others_up(
    mortal_server: LiveServer, body: dict[str, Any]
) -> None:
    server = mortal_server
    running, second, third = (submit(server, body | LONG) for _ in range(3))
    wait_for_step(server, running)
    assert [job(server, job_id)["position"] for job_id in (running, second, third)] == [None, 0, 1]

    answer = server.http.delete(f"{server.url}/v1/edits/{second}").json()

    assert answer["status"] == "canceled"
    assert job(server, third)["position"] == 0
    for job_id in (running, third):
        server.http.delete(f"{server.url}/v1/edits/{job_id}")
        wait_for(server, job_id, *FINAL)


def test_canceled_job_stays_canceled_when_the_server_is_killed_before_the_step_ends(
    mortal_server: LiveServer, body: dict[str, Any]
) -> None:
    server = mortal_server
    running = submit(server, body | LONG)
    wait_for_step(server, running)
    [worker] = server.worker_pids()
    # a stopped worker cannot leave the step: the cancel is on disk, and nowhere else
    os.kill(worker, signal.SIGSTOP)
    server.http.delete(f"{server.url}/v1/edits/{running}")
    server.kill()
    os.kill(worker, signal.SIGCONT)
    server.start()

    assert job(server, running)["status"] == "canceled"


def test_job_past_its_time_limit_fails_and_the_next_runs(
    start_server: Callable[..., LiveServer], body: dict[str, Any], worker: str
) -> None:
    server = start_server(worker=worker, JOB_TIMEOUT_S=5)
    slow, quick = submit(server, body | LONG), submit(server, body)

    failed = wait_for(server, slow, *FINAL)
    assert failed["error"]["code"] == "timeout"
    assert "longer than the allowed 5 seconds" in failed["error"]["message"]
    assert wait_for(server, quick, *FINAL)["status"] == "succeeded"


def test_sigint_ends_the_server_within_seconds_with_a_stream_open(
    mortal_server: LiveServer, body: dict[str, Any]
) -> None:
    server = mortal_server
    # far longer than the bound below
    running = submit(server, body | LONG | {"n": 6})
    wait_for_step(server, running)
    [worker] = server.worker_pids()
    with server.http.stream("GET", f"{server.url}/v1/edits/{running}/events") as stream:
        # kept, for with the generator goes the connection
        following = events(stream)
        next(following)
        seconds = server.stop(signal.SIGINT)

    # the graces that it gives to clients, files and workers are seven seconds
    assert seconds < 30
    assert server.process.returncode == 0
    assert not is_alive(worker)
    server.start(wait_ready=False)
    wait_for(server, running, JobStatus.RUNNING)
    # else it would take a core from the tests that follow
    server.http.delete(f"{server.url}/v1/edits/{running}")


@pytest.mark.real_worker
def test_health_and_submit_name_the_model_that_cannot_be_loaded(
    start_server: Callable[..., LiveServer],
    body: dict[str, Any],
    tiny_model: Path,
    tmp_path: Path,
    worker: str,
) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "model_index.json").write_text((tiny_model / "model_index.json").read_text())
    server = start_server(wait_ready=False, model=broken, worker=worker)

    health = until(lambda: server.health() if server.health()["status"] == "failed" else None)

    assert broken.name in health["error"]
    answer = server.http.post(f"{server.url}/v1/edits", json=body)
    assert answer.status_code == 503
    assert broken.name in answer.json()["error"]["message"]


def test_health_answers_while_the_model_loads(
    start_server: Callable[..., LiveServer], worker: str
) -> None:
    server = start_server(wait_ready=False, worker=worker)
    assert server.health()["status"] == "starting"
    until(lambda: server.health()["status"] == "ready")


def test_files_of_ended_jobs_are_removed(mortal_server: LiveServer, body: dict[str, Any]) -> None:
    server = mortal_server
    inputs, outputs = server.data_dir / "inputs", server.data_dir / "outputs"
    # a kill between a file and its row leaves one that no job names
    before = set(outputs.iterdir())
    done = wait_for(server, submit(server, body), *FINAL)
    until(lambda: not list(inputs.iterdir()))
    names = [output["url"].rpartition("/")[2] for output in done["outputs"]]
    assert len(names) == 1
    assert set(outputs.iterdir()) - before == {outputs / name for name in names}

    assert server.http.delete(f"{server.url}/v1/edits/{done['id']}").status_code == 204
    assert set(outputs.iterdir()) == before


def test_expired_jobs_are_deleted_with_their_files(
    start_server: Callable[..., LiveServer], body: dict[str, Any], worker: str
) -> None:
    server = start_server(worker=worker, KEEP_OUTPUTS_H=1e-6)
    headers = {"Idempotency-Key": "old"}
    answer = server.http.post(f"{server.url}/v1/edits", json=body, headers=headers)
    done = answer.json()["id"]
    wait_for(server, done, *FINAL)
    server.stop()
    database = sqlite3.connect(server.data_dir / "jobs.sqlite3")
    with contextlib.closing(database), database:
        database.execute("UPDATE idempotency_keys SET created_at = 0")
    server.start(wait_ready=False)

    def keys() -> int:
        with contextlib.closing(sqlite3.connect(server.data_dir / "jobs.sqlite3")) as connection:
            count: int = connection.execute("SELECT count(*) FROM idempotency_keys").fetchone()[0]
            return count

    until(lambda: server.http.get(f"{server.url}/v1/edits/{done}").status_code == 404)
    until(lambda: keys() == 0)
    # the row goes first, then its files
    until(lambda: not list((server.data_dir / "outputs").iterdir()))
