"""The order in which jobs are claimed: by turn, so that claims alternate between owners.

Start-time fair queuing: an owner has one job in each turn, in the order of submission. A job's turn
is stored when it is submitted and never changes, so the order of claims is known at any time and
survives a restart. Where a job ends before it started, the owner's later jobs move up.
"""

import sqlite3

INDEXES = (
    "CREATE INDEX IF NOT EXISTS jobs_by_turn ON jobs (status, turn, seq)",
    "CREATE INDEX IF NOT EXISTS jobs_of_owner_by_turn ON jobs (owner, turn, status)",
    "CREATE INDEX IF NOT EXISTS started_jobs_by_turn ON jobs (turn) WHERE started_at IS NOT NULL",
)


def next_turn(connection: sqlite3.Connection, owner: str | None) -> int:
    """Return the turn of a new job: after its owner's latest, and not before the current one.

    The current turn is that of the latest claim, and at least the one before the first queued
    job's: the rows of claimed jobs may have been deleted.
    """
    row = connection.execute(
        """
        SELECT max(
            ifnull((SELECT max(turn) FROM jobs WHERE started_at IS NOT NULL), 0),
            ifnull((SELECT min(turn) - 1 FROM jobs WHERE status = 'queued'), 0),
            ifnull(
                (SELECT max(turn) + 1 FROM jobs
                 WHERE owner IS ? AND (status = 'queued' OR started_at IS NOT NULL)),
                0
            )
        )
        """,
        (owner,),
    ).fetchone()
    return int(row[0])


def move_up(connection: sqlite3.Connection, job_id: str) -> None:
    """Fill the turn of a job that ended while it waited with its owner's next job, and so on."""
    connection.execute(
        "UPDATE jobs SET turn = jobs.turn - 1 FROM (SELECT owner, turn FROM jobs WHERE id = ?"
        " AND started_at IS NULL) AS ended"
        " WHERE jobs.status = 'queued' AND jobs.owner IS ended.owner AND jobs.turn > ended.turn",
        (job_id,),
    )


def overtakes(connection: sqlite3.Connection, job_id: str) -> bool:
    """Return whether a queued job is claimed after this one, so that its submit moved it back."""
    row = connection.execute(
        "SELECT EXISTS (SELECT 1 FROM jobs WHERE status = 'queued'"
        " AND (turn, seq) > (SELECT turn, seq FROM jobs WHERE id = ?))",
        (job_id,),
    ).fetchone()
    return bool(row[0])


def positions(connection: sqlite3.Connection) -> dict[str, int]:
    """Return the position of every queued job."""
    rows = connection.execute("SELECT id FROM jobs WHERE status = 'queued' ORDER BY turn, seq")
    return {row[0]: place for place, row in enumerate(rows)}


def position(connection: sqlite3.Connection, job_id: str) -> int:
    """Count the queued jobs that are claimed before this one: 0 is next."""
    row = connection.execute(
        "SELECT count(*) FROM jobs WHERE status = 'queued'"
        " AND (turn, seq) < (SELECT turn, seq FROM jobs WHERE id = ?)",
        (job_id,),
    ).fetchone()
    return int(row[0])
