"""The table of uploads: open tickets and stored files."""

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

SCHEMA = """
    CREATE TABLE IF NOT EXISTS uploads (
        token TEXT PRIMARY KEY,
        name TEXT NOT NULL UNIQUE,
        filename TEXT NOT NULL,
        size_bytes INTEGER NOT NULL,
        content_type TEXT NOT NULL,
        created_at REAL NOT NULL,
        expires_at REAL NOT NULL,
        stored INTEGER NOT NULL DEFAULT 0,
        owner TEXT
    )
    """


@dataclass(frozen=True, slots=True)
class Upload:
    """An upload, `stored` once its bytes are on disk.

    `token` is the capability to write the file, `name` the one to read it; `filename` is the
    client's. Times are Unix seconds. `owner` is None in rows from before owners were stored.
    """

    token: str
    name: str
    filename: str
    size_bytes: int
    content_type: str
    created_at: float
    expires_at: float
    stored: bool = False
    owner: str | None = None


def create_table(connection: sqlite3.Connection) -> None:
    """Create the table if it does not exist, or add what the one of version 0.1 lacks."""
    connection.execute(SCHEMA)
    if "owner" not in {row[1] for row in connection.execute("PRAGMA table_info(uploads)")}:
        connection.execute("ALTER TABLE uploads ADD COLUMN owner TEXT")
    connection.execute(
        "CREATE INDEX IF NOT EXISTS uploads_by_owner ON uploads (owner, expires_at, size_bytes)"
    )


def insert(connection: sqlite3.Connection, upload: Upload) -> None:
    """Add an upload whose bytes have yet to arrive."""
    connection.execute(
        "INSERT INTO uploads (token, name, filename, size_bytes, content_type, created_at,"
        " expires_at, stored, owner) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            upload.token,
            upload.name,
            upload.filename,
            upload.size_bytes,
            upload.content_type,
            upload.created_at,
            upload.expires_at,
            upload.stored,
            upload.owner,
        ),
    )


def get(connection: sqlite3.Connection, token: str) -> Upload | None:
    """Return the upload that this token may write, or None."""
    row = connection.execute("SELECT * FROM uploads WHERE token = ?", (token,)).fetchone()
    return _upload(row) if row else None


def bytes_of(connection: sqlite3.Connection, owner: str | None, *, now: float) -> int:
    """Return the bytes of an owner's stored files and open tickets."""
    row = connection.execute(
        "SELECT ifnull(sum(size_bytes), 0) FROM uploads WHERE owner IS ? AND expires_at > ?",
        (owner, now),
    ).fetchone()
    return int(row[0])


def mark_stored(
    connection: sqlite3.Connection, token: str, *, now: float, expires_at: float
) -> bool:
    """Mark the bytes as stored; return False if the upload has expired."""
    cursor = connection.execute(
        "UPDATE uploads SET stored = 1, expires_at = ? WHERE token = ? AND expires_at > ?",
        (expires_at, token, now),
    )
    return cursor.rowcount == 1


def expired(connection: sqlite3.Connection, now: float) -> list[Upload]:
    """Return the expired uploads, oldest first."""
    rows = connection.execute(
        "SELECT * FROM uploads WHERE expires_at <= ? ORDER BY expires_at", (now,)
    )
    return [_upload(row) for row in rows]


def delete(connection: sqlite3.Connection, tokens: Sequence[str]) -> None:
    """Delete these uploads."""
    connection.executemany("DELETE FROM uploads WHERE token = ?", [(token,) for token in tokens])


def _upload(row: sqlite3.Row) -> Upload:
    return Upload(**{**dict(row), "stored": bool(row["stored"])})
