"""The state of the jobs that the last server left, read once at the start."""

import sqlite3


def output_names(connection: sqlite3.Connection) -> frozenset[str]:
    """Return the file names of all jobs' outputs."""
    rows = connection.execute(
        "SELECT json_extract(output.value, '$.name') FROM jobs,"
        " json_each(jobs.result, '$.outputs') AS output"
    )
    return frozenset(row[0] for row in rows)


def newest_change(connection: sqlite3.Connection) -> float | None:
    """Return when a job was last submitted or ended (Unix seconds), None without any."""
    row = connection.execute(
        "SELECT max(max(created_at), max(ifnull(finished_at, 0))) FROM jobs"
    ).fetchone()
    return None if row[0] is None else float(row[0])


def interrupted_since(connection: sqlite3.Connection) -> float | None:
    """Return when the first of the running jobs started (Unix seconds), None without any.

    At the start of the server: the outputs of a job that was cut off are not older.
    """
    row = connection.execute("SELECT min(started_at) FROM jobs WHERE status = 'running'").fetchone()
    return None if row[0] is None else float(row[0])
