"""A database that version 0.1 wrote: rows of every contract, status and kind of request."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.job import JobStatus
from server.store import jobs, uploads, webhooks
from server.store.database import connect
from server.store.jobs import JobFilter

DUMP = Path(__file__).with_name("data_of_0_1.sql")


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
