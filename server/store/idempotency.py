"""The requests with an Idempotency-Key: one row per key, kept longer than its job may be."""

import sqlite3
from dataclasses import dataclass

from server.errors import JobDeleted, KeyReused
from server.job import Job, JobStatus
from server.store import jobs

KEEP_S = 86_400.0
SCHEMA = """
    CREATE TABLE IF NOT EXISTS idempotency_keys (
        owner TEXT NOT NULL,
        route TEXT NOT NULL,
        key TEXT NOT NULL,
        fingerprint TEXT NOT NULL,
        job_id TEXT NOT NULL,
        created_at REAL NOT NULL,
        PRIMARY KEY (owner, route, key)
    ) WITHOUT ROWID
    """


@dataclass(frozen=True, slots=True)
class KeyedRequest:
    """A submit with an Idempotency-Key, which counts for its owner and its route.

    Two requests with the same fields and images have the same `fingerprint`. `answers_outcome`
    tells that the client waits for the outcome: then a failed job is an error, which no repeat
    gets again.
    """

    owner: str
    route: str
    key: str
    fingerprint: str
    answers_outcome: bool = False


def create_table(connection: sqlite3.Connection) -> None:
    """Create the table if it does not exist."""
    connection.execute(SCHEMA)


def find(connection: sqlite3.Connection, request: KeyedRequest, now: float) -> Job | None:
    """Return the job of the first request with this key, or None if this is the first.

    Raises KeyReused if that request was another one, JobDeleted if its job is gone.
    """
    row = connection.execute(
        "SELECT fingerprint, job_id FROM idempotency_keys"
        " WHERE owner = ? AND route = ? AND key = ? AND created_at > ?",
        (request.owner, request.route, request.key, now - KEEP_S),
    ).fetchone()
    if row is None:
        return None
    job = jobs.get(connection, row["job_id"])
    if job is not None and request.answers_outcome and _is_error(job):
        return None
    if row["fingerprint"] != request.fingerprint:
        raise KeyReused(
            f"The Idempotency-Key {request.key!r} was sent before with other fields or images. "
            "Repeat the same request, or use a new key."
        )
    if job is None:
        raise JobDeleted(f"The job of the Idempotency-Key {request.key!r} was deleted.")
    return job


def insert(connection: sqlite3.Connection, request: KeyedRequest, job_id: str, now: float) -> None:
    """Remember the job of a key that `find` does not know."""
    connection.execute(
        "INSERT OR REPLACE INTO idempotency_keys VALUES (?, ?, ?, ?, ?, ?)",
        (request.owner, request.route, request.key, request.fingerprint, job_id, now),
    )


def delete_expired(connection: sqlite3.Connection, now: float) -> None:
    """Forget the keys that `find` no longer knows."""
    connection.execute("DELETE FROM idempotency_keys WHERE created_at <= ?", (now - KEEP_S,))


def _is_error(job: Job) -> bool:
    return job.status in (JobStatus.FAILED, JobStatus.CANCELED)
