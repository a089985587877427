"""The table of webhook deliveries: one row per ended job with a webhook."""

import sqlite3
from dataclasses import dataclass
from enum import StrEnum

from server.job import Job

SCHEMA = """
    CREATE TABLE IF NOT EXISTS webhooks (
        id INTEGER PRIMARY KEY AUTOINCREMENT,
        job_id TEXT NOT NULL UNIQUE,
        contract TEXT NOT NULL,
        url TEXT NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        next_at REAL NOT NULL,
        state TEXT NOT NULL
    )
    """


class DeliveryState(StrEnum):
    """The state of a delivery. The last two are final."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Delivery:
    """A webhook to deliver: `attempts` so far, the next one due at `next_at` (Unix seconds)."""

    id: int
    job_id: str
    contract: str
    url: str
    attempts: int
    next_at: float
    state: DeliveryState


def create_table(connection: sqlite3.Connection) -> None:
    """Create the table if it does not exist."""
    connection.execute(SCHEMA)


def add_if_asked(connection: sqlite3.Connection, job: Job) -> bool:
    """Add a delivery for a job that has ended, if it has a webhook; return whether it was added.

    Call it in the transaction that ends the job, so that neither is stored without the other.
    """
    request = job.request
    if request.webhook is None or not job.status.is_final:
        return False
    connection.execute(
        "INSERT OR IGNORE INTO webhooks (job_id, contract, url, next_at, state)"
        " VALUES (?, ?, ?, ?, ?)",
        (job.id, request.contract, request.webhook, job.finished_at, DeliveryState.PENDING),
    )
    return True


def pending(connection: sqlite3.Connection) -> list[Delivery]:
    """Return all pending deliveries, the next one first."""
    rows = connection.execute(
        "SELECT * FROM webhooks WHERE state = ? ORDER BY next_at, id", (DeliveryState.PENDING,)
    )
    return [_delivery(row) for row in rows]


def update(connection: sqlite3.Connection, delivery: Delivery) -> None:
    """Store a delivery's progress; do nothing if its job has been deleted."""
    connection.execute(
        "UPDATE webhooks SET attempts = ?, next_at = ?, state = ? WHERE id = ?",
        (delivery.attempts, delivery.next_at, delivery.state, delivery.id),
    )


def delete(connection: sqlite3.Connection, job_id: str) -> None:
    """Delete the delivery for this job."""
    connection.execute("DELETE FROM webhooks WHERE job_id = ?", (job_id,))


def get(connection: sqlite3.Connection, job_id: str) -> Delivery | None:
    """Return the delivery for this job, or None."""
    row = connection.execute("SELECT * FROM webhooks WHERE job_id = ?", (job_id,)).fetchone()
    return _delivery(row) if row else None


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(**{**dict(row), "state": DeliveryState(row["state"])})
