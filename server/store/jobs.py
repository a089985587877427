"""The table of jobs: one row per job, kept until the job is deleted; progress is not stored."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from server.job import Job, JobStatus, Outcome, Submission
from server.store import turns

SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS jobs (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        id TEXT NOT NULL UNIQUE,
        contract TEXT NOT NULL,
        endpoint TEXT NOT NULL,
        status TEXT NOT NULL,
        created_at REAL NOT NULL,
        prepared_at REAL,
        started_at REAL,
        finished_at REAL,
        cancel_requested INTEGER NOT NULL DEFAULT 0,
        starts INTEGER NOT NULL DEFAULT 0,
        attempts INTEGER NOT NULL DEFAULT 0,
        request TEXT NOT NULL,
        result TEXT NOT NULL DEFAULT '{}',
        owner TEXT,
        turn INTEGER NOT NULL DEFAULT 0
    )
    """,
    "CREATE INDEX IF NOT EXISTS jobs_by_status ON jobs (status, seq)",
    "CREATE INDEX IF NOT EXISTS jobs_by_contract ON jobs (contract, seq)",
)
# Columns that version 0.1 did not have, and the indexes over them.
ADDED_COLUMNS = {"owner": "TEXT", "turn": "INTEGER NOT NULL DEFAULT 0"}
ADDED_INDEXES = ("CREATE INDEX IF NOT EXISTS jobs_by_owner ON jobs (owner, seq)", *turns.INDEXES)

_SUBMISSION = TypeAdapter(Submission)
_OUTCOME = TypeAdapter(Outcome)
# Columns of their own, or not stored at all.
_NOT_IN_REQUEST = {"contract", "endpoint", "owner", "webhook_field"}


@dataclass(frozen=True, slots=True)
class JobFilter:
    """The criteria of a listing; None matches every job. Times are Unix seconds."""

    contract: str | None = None
    endpoint: str | None = None
    statuses: tuple[JobStatus, ...] | None = None
    created_after: float | None = None
    created_before: float | None = None
    owner: str | None = None


def create_table(connection: sqlite3.Connection) -> None:
    """Create the table if it does not exist, or add what the one of version 0.1 lacks."""
    for statement in SCHEMA:
        connection.execute(statement)
    present = {row[1] for row in connection.execute("PRAGMA table_info(jobs)")}
    for name, definition in ADDED_COLUMNS.items():
        if name not in present:
            connection.execute(f"ALTER TABLE jobs ADD COLUMN {name} {definition}")
    for statement in ADDED_INDEXES:
        connection.execute(statement)


def insert(connection: sqlite3.Connection, job: Job) -> None:
    """Add a new job to the queue, behind its owner's other jobs."""
    connection.execute(
        "INSERT INTO jobs (id, contract, endpoint, status, created_at, prepared_at, request, owner,"
        " turn) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            job.id,
            job.request.contract,
            job.request.endpoint,
            job.status,
            job.created_at,
            job.prepared_at,
            _dump_request(job),
            job.request.owner,
            turns.next_turn(connection, job.request.owner),
        ),
    )


def get(connection: sqlite3.Connection, job_id: str) -> Job | None:
    """Return the job with this ID, or None."""
    row = connection.execute("SELECT * FROM jobs WHERE id = ?", (job_id,)).fetchone()
    return _job(row) if row else None


def claim(connection: sqlite3.Connection, now: float) -> Job | None:
    """Mark the next prepared job as running and return it, or None if there is none.

    Next is the first in the order of turns, which alternates between owners. One statement, so two
    dispatchers never get the same job.
    """
    row = connection.execute(
        "UPDATE jobs SET status = 'running', started_at = ?, starts = starts + 1 WHERE seq ="
        " (SELECT seq FROM jobs WHERE status = 'queued' AND prepared_at IS NOT NULL"
        "  ORDER BY turn, seq LIMIT 1) RETURNING *",
        (now,),
    ).fetchone()
    return _job(row) if row else None


def update(connection: sqlite3.Connection, job: Job, expected: Sequence[JobStatus]) -> bool:
    """Write a job's mutable columns if its status on disk is one of `expected`."""
    marks = ", ".join("?" * len(expected))
    cursor = connection.execute(
        "UPDATE jobs SET status = ?, prepared_at = ?, started_at = ?, finished_at = ?,"  # noqa: S608
        " cancel_requested = ?, attempts = ?, result = ?"
        f" WHERE id = ? AND status IN ({marks})",
        (
            job.status,
            job.prepared_at,
            job.started_at,
            job.finished_at,
            job.cancel_requested,
            job.attempts,
            _dump_result(job.outcome),
            job.id,
            *expected,
        ),
    )
    return cursor.rowcount == 1


def requeue(
    connection: sqlite3.Connection, job_id: str, now: float, *, is_attempt: bool = True
) -> Job:
    """Requeue a running job at its old place, or end it if cancelled.

    It counts as an attempt, or not even as a start. One statement, so a concurrent cancel either
    ends the job here or finds it queued.
    """
    row = connection.execute(
        "UPDATE jobs SET status = iif(cancel_requested, 'canceled', 'queued'),"
        " finished_at = iif(cancel_requested, ?, NULL),"
        " attempts = attempts + iif(cancel_requested, 0, ?), starts = starts - ?"
        " WHERE id = ? AND status = 'running' RETURNING *",
        (now, is_attempt, not is_attempt, job_id),
    ).fetchone()
    job = _job(row) if row else get(connection, job_id)
    assert job is not None, "a job that was running is in the table"
    return job


def delete(connection: sqlite3.Connection, job_id: str) -> bool:
    """Delete a final job's row; return whether there was one."""
    cursor = connection.execute(
        "DELETE FROM jobs WHERE id = ? AND status IN ('succeeded', 'failed', 'canceled')", (job_id,)
    )
    return cursor.rowcount == 1


def next_prepared(connection: sqlite3.Connection) -> Job | None:
    """Return the job that `claim` would return, without claiming it."""
    row = connection.execute(
        "SELECT * FROM jobs WHERE status = 'queued' AND prepared_at IS NOT NULL"
        " ORDER BY turn, seq LIMIT 1"
    ).fetchone()
    return _job(row) if row else None


def count(connection: sqlite3.Connection, status: JobStatus) -> int:
    """Count the jobs with this status."""
    row = connection.execute("SELECT count(*) FROM jobs WHERE status = ?", (status,)).fetchone()
    return int(row[0])


def figures(connection: sqlite3.Connection) -> tuple[int, int, float | None]:
    """Count the queued and the running jobs; return also when the oldest queued one was created."""
    row = connection.execute(
        "SELECT (SELECT count(*) FROM jobs WHERE status = 'queued'),"
        " (SELECT count(*) FROM jobs WHERE status = 'running'),"
        " (SELECT created_at FROM jobs WHERE status = 'queued' ORDER BY seq LIMIT 1)"
    ).fetchone()
    return tuple(row)


def count_waiting(connection: sqlite3.Connection, owner: str | None) -> int:
    """Count the queued jobs of this owner."""
    row = connection.execute(
        "SELECT count(*) FROM jobs WHERE owner IS ? AND status = 'queued'", (owner,)
    ).fetchone()
    return int(row[0])


def with_status(connection: sqlite3.Connection, status: JobStatus) -> list[Job]:
    """Return all jobs with this status, oldest first."""
    rows = connection.execute("SELECT * FROM jobs WHERE status = ? ORDER BY seq", (status,))
    return [_job(row) for row in rows]


def unfinished(connection: sqlite3.Connection) -> list[Job]:
    """Return all queued and running jobs, oldest first."""
    rows = connection.execute(
        "SELECT * FROM jobs WHERE status IN ('queued', 'running') ORDER BY seq"
    )
    return [_job(row) for row in rows]


def finished_before(connection: sqlite3.Connection, moment: float) -> list[Job]:
    """Return all jobs that ended before `moment`, oldest first."""
    rows = connection.execute(
        "SELECT * FROM jobs WHERE finished_at < ? ORDER BY seq", (moment,)
    ).fetchall()
    return [_job(row) for row in rows]


def recent_run_seconds(connection: sqlite3.Connection, sample: int = 20) -> float | None:
    """Return the mean run time of the latest succeeded jobs, or None if there are none."""
    row = connection.execute(
        "SELECT avg(finished_at - started_at) FROM (SELECT finished_at, started_at FROM jobs"
        " WHERE status = 'succeeded' ORDER BY seq DESC LIMIT ?)",
        (sample,),
    ).fetchone()
    return None if row[0] is None else float(row[0])


def search(
    connection: sqlite3.Connection, wanted: JobFilter, *, limit: int, offset: int
) -> tuple[list[Job], int]:
    """Return a page of the matching jobs, newest first, and the number of all matches."""
    clauses, values = _where(wanted)
    where = " AND ".join(clauses)
    rows = connection.execute(
        f"SELECT * FROM jobs WHERE {where} ORDER BY seq DESC LIMIT ? OFFSET ?",  # noqa: S608
        (*values, limit, offset),
    ).fetchall()
    total = connection.execute(f"SELECT count(*) FROM jobs WHERE {where}", values)  # noqa: S608
    return [_job(row) for row in rows], int(total.fetchone()[0])


def _where(wanted: JobFilter) -> tuple[list[str], list[Any]]:
    clauses, values = ["TRUE"], []
    for clause, value in (
        ("owner = ?", wanted.owner),
        ("contract = ?", wanted.contract),
        ("endpoint = ?", wanted.endpoint),
        ("created_at >= ?", wanted.created_after),
        ("created_at < ?", wanted.created_before),
    ):
        if value is not None:
            clauses.append(clause)
            values.append(value)
    if wanted.statuses is not None:
        clauses.append(f"status IN ({', '.join('?' * len(wanted.statuses))})")
        values.extend(wanted.statuses)
    return clauses, values


def _dump_request(job: Job) -> str:
    request = _SUBMISSION.dump_python(job.request, mode="json", exclude=_NOT_IN_REQUEST)
    return json.dumps({**request, "images": job.images})


def _dump_result(outcome: Outcome | None) -> str:
    if outcome is None:
        return "{}"
    return json.dumps(_OUTCOME.dump_python(outcome, mode="json", exclude={"status"}))


def _job(row: sqlite3.Row) -> Job:
    request: dict[str, Any] = json.loads(row["request"])
    images = tuple(request.pop("images"))
    columns = {name: row[name] for name in ("contract", "endpoint", "owner")}
    status = JobStatus(row["status"])
    return Job(
        request=_SUBMISSION.validate_python(request | columns),
        images=images,
        created_at=row["created_at"],
        id=row["id"],
        status=status,
        prepared_at=row["prepared_at"],
        started_at=row["started_at"],
        finished_at=row["finished_at"],
        cancel_requested=bool(row["cancel_requested"]),
        starts=row["starts"],
        attempts=row["attempts"],
        outcome=_outcome(status, row["result"]) if status.is_final else None,
    )


def _outcome(status: JobStatus, result: str) -> Outcome:
    return _OUTCOME.validate_python({**json.loads(result), "status": status})
