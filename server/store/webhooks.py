"""The table of webhook deliveries: one row per job that has ended and asked for one."""

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
    """Where a delivery is. The last two are final."""

    PENDING = "pending"
    DELIVERED = "delivered"
    GIVEN_UP = "given_up"


@dataclass(frozen=True, slots=True)
class Delivery:
    """What is to be told to whom: `attempts` were made, the next is due at `next_at` (Unix s)."""

    id: int
    job_id: str
    contract: str
    url: str
    attempts: int
    next_at: float
    state: DeliveryState


def create_table(connection: sqlite3.Connection) -> None:
    """Create the table where it is missing."""
    connection.execute(SCHEMA)


def add_if_asked(connection: sqlite3.Connection, job: Job) -> bool:
    """Add a delivery for a job that has just ended, if it asked for one; say whether.

    Meant for the transaction that ends the job: then neither is ever there without the other.
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
    """All deliveries that are still to be made, the next one first."""
    rows = connection.execute(
        "SELECT * FROM webhooks WHERE state = ? ORDER BY next_at, id", (DeliveryState.PENDING,)
    )
    return [_delivery(row) for row in rows]


def update(connection: sqlite3.Connection, delivery: Delivery) -> None:
    """Write how far a delivery is; nothing when its job was deleted meanwhile."""
    connection.execute(
        "UPDATE webhooks SET attempts = ?, next_at = ?, state = ? WHERE id = ?",
        (delivery.attempts, delivery.next_at, delivery.state, delivery.id),
    )


def delete(connection: sqlite3.Connection, job_id: str) -> None:
    """Forget the delivery for this job."""
    connection.execute("DELETE FROM webhooks WHERE job_id = ?", (job_id,))


def get(connection: sqlite3.Connection, job_id: str) -> Delivery | None:
    """The delivery for this job."""
    row = connection.execute("SELECT * FROM webhooks WHERE job_id = ?", (job_id,)).fetchone()
    return _delivery(row) if row else None


def _delivery(row: sqlite3.Row) -> Delivery:
    return Delivery(**{**dict(row), "state": DeliveryState(row["state"])})
