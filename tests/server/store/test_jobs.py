"""The table of jobs: what goes in comes out, and who gets which row."""

import dataclasses
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.api.params import EditParams, LoraRef
from pipelines.api.profiles import Source, UsedSampling
from pipelines.api.sizes import SizeBounds
from server.job import Job, JobError, JobStatus, Outcome, Output, OutputFormat
from server.store import jobs, turns
from server.store.database import connect
from server.store.jobs import JobFilter
from tests.make_job import make_job

FINAL = [status for status in JobStatus if status.is_final]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "jobs.sqlite3")
    jobs.create_table(connection)
    yield connection
    connection.close()


def insert(connection: sqlite3.Connection, **changes: Any) -> Job:
    job = make_job(**changes)
    jobs.insert(connection, job)
    return job


def finish(
    connection: sqlite3.Connection,
    job: Job,
    status: JobStatus,
    *,
    finished_at: float = 300.0,
    **result: Any,
) -> Job:
    if status is JobStatus.SUCCEEDED:
        job = claimed(connection, job)
    ended = job.ended(Outcome(status, **result), finished_at)
    assert jobs.update(connection, ended, [job.status])
    return ended


def claimed(connection: sqlite3.Connection, job: Job, now: float = 200.0) -> Job:
    found = jobs.claim(connection, now)
    assert found is not None
    assert found.id == job.id
    return found


def full_request() -> Job:
    params = EditParams(
        prompt="größer\n'; DROP TABLE jobs; --",
        seed=2**31 - 1,
        negative_prompt="",
        size=(1024, 768),
        bounds=SizeBounds(512, 2048),
        num_inference_steps=30,
        true_cfg_scale=2.5,
        num_outputs=4,
        loras=(LoraRef("style", 0.0), LoraRef("https://host/a.safetensors", 0.7)),
    )
    return make_job(
        contract="wavespeed",
        endpoint="wavespeed-ai/qwen-image/edit-plus",
        params=params,
        images=("https://host/a.png", None),
        created_at=1.25,
        prepared_at=None,
        output_format=OutputFormat.WEBP,
        base64_output=True,
        quality=0,
        max_image_bytes=1000,
        watermark="Qwen-Image",
        webhook="https://host/hook?a=1",
        base_url="https://edit.example.org/base",
    )


def test_request_is_read_back_with_every_field(connection: sqlite3.Connection) -> None:
    job = full_request()

    jobs.insert(connection, job)

    assert jobs.get(connection, job.id) == job


def test_request_with_defaults_is_read_back(connection: sqlite3.Connection) -> None:
    job = insert(connection)

    assert jobs.get(connection, job.id) == job


def test_outcome_is_read_back_with_every_field(connection: sqlite3.Connection) -> None:
    running = claimed(connection, insert(connection))
    outputs = (
        Output("a.png", "image/png", 10, 256, 512, 3),
        Output("b.png", "image/png", 20, 256, 512, 4),
    )
    outcome = Outcome(
        JobStatus.SUCCEEDED,
        outputs=outputs,
        seconds={"queued": 0.5, "denoise": 12.25},
        num_inference_steps=40,
        true_cfg_scale=4.0,
        used_prompt="a red cat",
        is_prompt_extended=True,
    )
    ended = running.evolve(cancel_requested=True, attempts=1).ended(outcome, 300.5)

    assert jobs.update(connection, ended, [JobStatus.RUNNING])

    assert jobs.get(connection, running.id) == ended


def test_error_is_read_back(connection: sqlite3.Connection) -> None:
    error = JobError("worker_lost", "It died.")
    ended = finish(connection, insert(connection), JobStatus.FAILED, error=error)

    assert jobs.get(connection, ended.id) == ended


def test_update_writes_every_field_that_can_change(connection: sqlite3.Connection) -> None:
    # a new field of Job is stored, or listed here as one that never changes
    unchanging = {"request", "images", "created_at", "id", "starts"}
    changes = {"prepared_at": 1.0, "started_at": 2.0, "cancel_requested": True, "attempts": 5}
    ending = {"status", "finished_at", "outcome"}
    assert {f.name for f in dataclasses.fields(Job)} == unchanging | set(changes) | ending
    outcome = Outcome(
        JobStatus.FAILED,
        JobError("code", "message"),
        (Output("a", "b", 1, 2, 3, 4, True),),
        {"decode": 8.0},
        num_inference_steps=6,
        true_cfg_scale=7.0,
        used_prompt="a red cat",
        is_prompt_extended=True,
        sampling=UsedSampling({"steps": Source.LORA}, 6, 7.0, 3.0, None, (1.0, 0.5)),
        warnings=("It may be wrong.",),
    )
    assert all(
        getattr(outcome, f.name) not in (f.default, {}, None) for f in dataclasses.fields(Outcome)
    )
    changed = insert(connection).evolve(**changes).ended(outcome, 3.0)

    jobs.update(connection, changed, [JobStatus.QUEUED])

    assert jobs.get(connection, changed.id) == changed


def test_unknown_job_is_none(connection: sqlite3.Connection) -> None:
    assert jobs.get(connection, "unknown") is None


def test_insert_raises_when_the_id_exists(connection: sqlite3.Connection) -> None:
    job = insert(connection)

    with pytest.raises(sqlite3.IntegrityError):
        jobs.insert(connection, job)


def test_create_table_keeps_an_existing_table(connection: sqlite3.Connection) -> None:
    job = insert(connection)

    jobs.create_table(connection)

    assert jobs.get(connection, job.id) == job


def test_claim_returns_the_oldest_first(connection: sqlite3.Connection) -> None:
    # by order of arrival, not by clock
    first, second = insert(connection, created_at=200.0), insert(connection, created_at=100.0)

    found = [jobs.claim(connection, 1.0) for _ in range(3)]

    assert [job.id if job else None for job in found] == [first.id, second.id, None]


def test_claim_marks_the_job_as_running(connection: sqlite3.Connection) -> None:
    job = insert(connection)

    found = jobs.claim(connection, 250.0)

    assert found == job.evolve(status=JobStatus.RUNNING, started_at=250.0, starts=1)
    assert jobs.get(connection, job.id) == found


def test_claim_skips_unprepared_jobs(connection: sqlite3.Connection) -> None:
    insert(connection, prepared_at=None)
    ready = insert(connection)

    claimed(connection, ready)

    assert jobs.claim(connection, 1.0) is None


@pytest.mark.parametrize("status", [JobStatus.FAILED, JobStatus.CANCELED])
def test_claim_skips_ended_jobs(connection: sqlite3.Connection, status: JobStatus) -> None:
    finish(connection, insert(connection), status)

    assert jobs.claim(connection, 1.0) is None


def test_requeued_job_keeps_its_place_and_counts_its_starts(
    connection: sqlite3.Connection,
) -> None:
    first = claimed(connection, insert(connection))
    insert(connection)
    jobs.update(connection, first.evolve(status=JobStatus.QUEUED), [JobStatus.RUNNING])

    again = claimed(connection, first)

    assert again.starts == 2


@pytest.mark.parametrize("actual", JobStatus)
def test_update_is_refused_when_the_status_on_disk_is_another(
    connection: sqlite3.Connection, actual: JobStatus
) -> None:
    job = insert(connection)
    connection.execute("UPDATE jobs SET status = ?", (actual,))
    others = [status for status in JobStatus if status is not actual]

    assert not jobs.update(connection, job.evolve(attempts=9), others)
    found = jobs.get(connection, job.id)
    assert found is not None
    assert (found.status, found.attempts) == (actual, 0)


def test_update_of_an_unknown_job_does_nothing(connection: sqlite3.Connection) -> None:
    assert not jobs.update(connection, make_job(), list(JobStatus))


@pytest.mark.parametrize("status", JobStatus)
def test_delete_removes_final_jobs_only(connection: sqlite3.Connection, status: JobStatus) -> None:
    job = insert(connection)
    connection.execute("UPDATE jobs SET status = ?", (status,))

    assert jobs.delete(connection, job.id) is status.is_final
    assert (jobs.get(connection, job.id) is None) is status.is_final


def test_order_survives_the_deletion_of_the_newest(connection: sqlite3.Connection) -> None:
    old = insert(connection)
    newest = finish(connection, insert(connection), JobStatus.CANCELED)
    jobs.delete(connection, newest.id)
    latest = insert(connection)

    assert [claimed(connection, job).id for job in (old, latest)] == [old.id, latest.id]


def test_count_is_by_status(connection: sqlite3.Connection) -> None:
    for _ in range(3):
        insert(connection)
    jobs.claim(connection, 1.0)

    counts = {status: jobs.count(connection, status) for status in JobStatus}

    assert counts == {**dict.fromkeys(JobStatus, 0), JobStatus.QUEUED: 2, JobStatus.RUNNING: 1}


def test_position_counts_the_queued_jobs_ahead(connection: sqlite3.Connection) -> None:
    running, *waiting = [insert(connection) for _ in range(4)]
    claimed(connection, running)
    finish(connection, waiting[1], JobStatus.CANCELED)

    positions = [turns.position(connection, job.id) for job in (waiting[0], waiting[2])]

    assert positions == [0, 1]


def test_with_status_returns_the_oldest_first(connection: sqlite3.Connection) -> None:
    made = [insert(connection, created_at=float(9 - k)) for k in range(3)]
    finish(connection, made[1], JobStatus.FAILED)

    found = jobs.with_status(connection, JobStatus.QUEUED)

    assert [job.id for job in found] == [made[0].id, made[2].id]


def test_unfinished_returns_queued_and_running_jobs(connection: sqlite3.Connection) -> None:
    made = [insert(connection) for _ in range(len(JobStatus))]
    for job, status in zip(made, JobStatus, strict=True):
        connection.execute("UPDATE jobs SET status = ? WHERE id = ?", (status, job.id))

    found = [job.status for job in jobs.unfinished(connection)]

    assert found == [JobStatus.QUEUED, JobStatus.RUNNING]


def test_finished_before_returns_the_jobs_that_ended_earlier(
    connection: sqlite3.Connection,
) -> None:
    insert(connection)
    early = finish(connection, insert(connection), JobStatus.CANCELED, finished_at=10.0)
    finish(connection, insert(connection), JobStatus.CANCELED, finished_at=20.0)

    assert [job.id for job in jobs.finished_before(connection, 20.0)] == [early.id]


def test_recent_run_seconds_is_none_when_nothing_has_succeeded(
    connection: sqlite3.Connection,
) -> None:
    claimed(connection, insert(connection))
    finish(connection, insert(connection), JobStatus.FAILED, finished_at=9.0)

    assert jobs.recent_run_seconds(connection) is None


def test_recent_run_seconds_is_the_mean_of_the_last_ones(connection: sqlite3.Connection) -> None:
    for seconds in (100.0, 2.0, 4.0):
        job = insert(connection)
        finish(connection, job, JobStatus.SUCCEEDED, finished_at=200.0 + seconds)

    assert jobs.recent_run_seconds(connection, sample=2) == 3.0


@pytest.fixture
def many(connection: sqlite3.Connection) -> list[Job]:
    """Five jobs that differ in what a listing can ask for."""
    native = [insert(connection, created_at=float(moment)) for moment in (10, 20, 30)]
    others = [
        insert(connection, contract="wavespeed", endpoint=endpoint, created_at=moment)
        for endpoint, moment in (("edit-plus", 40.0), ("edit-plus-lora", 50.0))
    ]
    claimed(connection, native[0])
    finish(connection, native[1], JobStatus.CANCELED)
    return [*native, *others]


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        (JobFilter(), [4, 3, 2, 1, 0]),
        (JobFilter(contract="native"), [2, 1, 0]),
        (JobFilter(contract="nobody"), []),
        (JobFilter(endpoint="edit-plus"), [3]),
        (JobFilter(contract="native", endpoint="edit-plus"), []),
        (JobFilter(statuses=(JobStatus.RUNNING,)), [0]),
        (JobFilter(statuses=(JobStatus.RUNNING, JobStatus.CANCELED)), [1, 0]),
        (JobFilter(statuses=()), []),
        (JobFilter(created_after=20.0), [4, 3, 2, 1]),
        (JobFilter(created_before=20.0), [0]),
        (JobFilter(created_after=20.0, created_before=50.0), [3, 2, 1]),
        (JobFilter("native", "edits", (JobStatus.QUEUED,), 10.0, 60.0), [2]),
    ],
)
def test_search_returns_matches_newest_first(
    connection: sqlite3.Connection, many: list[Job], wanted: JobFilter, expected: list[int]
) -> None:
    found, total = jobs.search(connection, wanted, limit=10, offset=0)

    assert [job.id for job in found] == [many[index].id for index in expected]
    assert total == len(expected)


@pytest.mark.parametrize(
    ("limit", "offset", "expected"),
    [(2, 0, [4, 3]), (2, 2, [2, 1]), (2, 4, [0]), (2, 6, []), (0, 0, [])],
)
def test_search_returns_one_page_and_the_total(
    connection: sqlite3.Connection, many: list[Job], limit: int, offset: int, expected: list[int]
) -> None:
    found, total = jobs.search(connection, JobFilter(), limit=limit, offset=offset)

    assert [job.id for job in found] == [many[index].id for index in expected]
    assert total == 5


@pytest.mark.parametrize("before", FINAL)
@pytest.mark.parametrize("after", JobStatus)
def test_final_job_never_changes_its_status(before: JobStatus, after: JobStatus) -> None:
    ended = make_job(status=before)
    if after is before:
        assert ended.evolve(status=after) == ended
        return

    with pytest.raises(ValueError, match=f"a {before} job cannot become {after}"):
        ended.evolve(status=after)
    if after.is_final:
        with pytest.raises(ValueError, match=f"a {before} job cannot become {after}"):
            ended.ended(Outcome(after), 1.0)
