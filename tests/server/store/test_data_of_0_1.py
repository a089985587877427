"""A database that version 0.1 wrote: rows of every contract, status and kind of request."""

import dataclasses
import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.api.params import EditParams, LoraRef
from pipelines.api.sizes import SizeBounds
from server.job import Job, JobError, JobStatus
from server.store import jobs, uploads, webhooks
from server.store.database import connect
from server.store.jobs import JobFilter

DUMP = Path(__file__).with_name("data_of_0_1.sql")
EMPTY_RESULT = {
    "num_inference_steps": None,
    "true_cfg_scale": None,
    "used_prompt": None,
    "is_prompt_extended": False,
    "seconds": {},
    "outputs": [],
    "error": None,
    "sampling": None,
    "warnings": [],
}
# The fields that requests have got since, as an old one has them.
NO_SAMPLING = dict.fromkeys(("steps", "true_cfg_scale", "shift", "shift_terminal", "sigmas"))
ADDED_PARAMS = {
    "schedule": NO_SAMPLING,
    "preset_sampling": NO_SAMPLING,
    "prompt_prefix": "",
    "prompt_suffix": "",
    "preset_loras": 0,
}


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """The database of version 0.1, opened as the server opens it."""
    connection = connect(tmp_path / "jobs.sqlite3")
    connection.executescript(DUMP.read_text())
    for table in (jobs, uploads, webhooks):
        table.create_table(connection)
    yield connection
    connection.close()


def test_dump_holds_every_contract_and_status(connection: sqlite3.Connection) -> None:
    found, total = jobs.search(connection, JobFilter(), limit=100, offset=0)

    assert total == len(found) == 17
    assert {job.status for job in found} == set(JobStatus)


def test_every_request_is_read(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT * FROM jobs ORDER BY seq").fetchall()

    for row in rows:
        job, stored = read(connection, row), json.loads(row["request"])
        params = stored.pop("params")
        assert list(job.images) == stored.pop("images")
        assert {name: getattr(job.request, name) for name in stored} == stored
        assert (job.request.contract, job.request.endpoint) == (row["contract"], row["endpoint"])
        assert job.request.params == EditParams(
            **params
            | {
                "size": tuple(params["size"]) if params["size"] else None,
                "bounds": SizeBounds(**params["bounds"]),
                "loras": tuple(LoraRef(**lora) for lora in params["loras"]),
            }
        )


def test_every_state_and_outcome_is_read(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT * FROM jobs ORDER BY seq").fetchall()

    for row in rows:
        job, stored = read(connection, row), json.loads(row["result"])
        for column in ("status", "prepared_at", "started_at", "finished_at", "starts", "attempts"):
            assert getattr(job, column) == row[column]
        assert job.cancel_requested is bool(row["cancel_requested"])
        assert (job.outcome is not None) == job.status.is_final
        if job.outcome is None:
            continue
        assert job.outcome.status is job.status
        assert [dataclasses.asdict(output) for output in job.outputs] == stored.pop("outputs", [])
        error = stored.pop("error", None)
        assert job.error == (JobError(**error) if error else None)
        assert {name: getattr(job.outcome, name) for name in stored} == stored


def test_request_is_stored_as_it_was(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT * FROM jobs ORDER BY seq").fetchall()
    fresh = connect(Path(":memory:"))
    jobs.create_table(fresh)

    for row in rows:
        jobs.insert(fresh, read(connection, row))

    stored = fresh.execute("SELECT * FROM jobs ORDER BY seq").fetchall()
    for before, after in zip(rows, stored, strict=True):
        request = json.loads(before["request"])
        request |= {"preset": None}
        request["params"] |= ADDED_PARAMS
        for lora in request["params"]["loras"]:
            lora |= {"alpha": None, "multiplier": 1.0}
        assert json.loads(after["request"]) == request
        for column in ("id", "contract", "endpoint", "created_at", "prepared_at"):
            assert after[column] == before[column]
    fresh.close()


def test_outcome_is_stored_as_it_was(connection: sqlite3.Connection) -> None:
    rows = connection.execute("SELECT * FROM jobs ORDER BY seq").fetchall()
    before = [dict(row) for row in rows]

    for row in rows:
        job = read(connection, row)
        assert jobs.update(connection, job, [job.status])

    after = [dict(row) for row in connection.execute("SELECT * FROM jobs ORDER BY seq")]
    for old, new in zip(before, after, strict=True):
        results = json.loads(old.pop("result")), json.loads(new.pop("result"))
        assert new == old
        # an unfinished job has no result, and an old one may lack what an outcome leaves empty
        if JobStatus(old["status"]).is_final:
            assert results[1] == EMPTY_RESULT | results[0]
        else:
            assert {**EMPTY_RESULT, **results[0]} == EMPTY_RESULT
            assert results[1] == {}


def test_restart_resumes_the_unfinished_jobs(connection: sqlite3.Connection) -> None:
    """The queue of a server that opens this database for the first time."""
    expected = {
        status: [job.id[-2:] for job in jobs.with_status(connection, status)]
        for status in (JobStatus.QUEUED, JobStatus.RUNNING)
    }

    assert expected == {
        JobStatus.QUEUED: ["0f", "10", "11"],
        JobStatus.RUNNING: ["0c", "0d", "0e"],
    }
    first = jobs.claim(connection, 2_000_000_000.0)
    assert first is not None
    assert first.request.params.loras == (LoraRef("style"),)


def test_webhooks_and_uploads_are_read(connection: sqlite3.Connection) -> None:
    pending = webhooks.pending(connection)

    assert [(delivery.contract, delivery.attempts) for delivery in pending] == [
        ("provider_queue", 0),
        ("provider_queue", 3),
    ]
    stored = uploads.get(connection, "a" * 64)
    assert stored is not None
    assert (stored.name, stored.stored) == ("0" * 31 + "1.png", True)


def read(connection: sqlite3.Connection, row: sqlite3.Row) -> Job:
    job = jobs.get(connection, row["id"])
    assert job is not None
    return job
