"""Real SQLite files that cannot be written for a while."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

from server.store.database import Database

# How a database refuses writes. A full one still takes changes that need no new page.
WAYS = ("locked", "read-only", "full")
LONG_TEXT = "x" * 100_000


@contextlib.asynccontextmanager
async def unwritable(database: Database, path: Path, way: str = "locked") -> AsyncIterator[None]:
    """Make the database at `path` refuse writes during the block."""
    before, after = {
        "locked": ("busy_timeout = 0", "busy_timeout = 10000"),
        "read-only": ("query_only = 1", "query_only = 0"),
        "full": ("max_page_count = 1", "max_page_count = 1000000"),
    }[way]
    await _set(database, before)
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        if way == "locked":
            other.execute("BEGIN IMMEDIATE")
        yield
    await _set(database, after)


async def _set(database: Database, pragma: str) -> None:
    """Change the write connection, outside a transaction: a read-only one begins none."""
    execute = partial(database._write_connection.execute, f"PRAGMA {pragma}")
    await asyncio.get_running_loop().run_in_executor(database._writer, execute)
