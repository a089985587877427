"""How long a key is remembered, and what is under it."""

import sqlite3
from dataclasses import replace

import pytest

from server.errors import JobDeleted, KeyReused
from server.job import Outcome
from server.store import endings, idempotency, jobs, recovery
from server.store.idempotency import KEEP_S, KeyedRequest
from tests.make_job import make_job

REQUEST = KeyedRequest("alice", "/v1/edits", "key", "fingerprint")
NOW = 1_000_000.0


@pytest.fixture
def connection() -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.row_factory = sqlite3.Row
    recovery.create_tables(connection)
    return connection


def test_key_is_remembered_for_a_day(connection: sqlite3.Connection) -> None:
    job = make_job()
    jobs.insert(connection, job)
    idempotency.insert(connection, REQUEST, job.id, NOW)

    found = idempotency.find(connection, REQUEST, NOW + KEEP_S - 1)

    assert found is not None
    assert found.id == job.id
    assert idempotency.find(connection, REQUEST, NOW + KEEP_S) is None


def test_expiry_removes_what_is_not_found_any_more_and_nothing_else(
    connection: sqlite3.Connection,
) -> None:
    for number, key in enumerate(("old", "new")):
        request = replace(REQUEST, key=key)
        idempotency.insert(connection, request, "gone", NOW + number)

    idempotency.delete_expired(connection, NOW + KEEP_S)

    left = connection.execute("SELECT key FROM idempotency_keys").fetchall()
    assert [row["key"] for row in left] == ["new"]


def test_deleted_job_is_reported_and_another_request_too(connection: sqlite3.Connection) -> None:
    idempotency.insert(connection, REQUEST, "gone", NOW)

    with pytest.raises(JobDeleted, match="'key' was deleted"):
        idempotency.find(connection, REQUEST, NOW)
    with pytest.raises(KeyReused, match="'key' was sent before"):
        idempotency.find(connection, replace(REQUEST, fingerprint="another"), NOW)


@pytest.mark.parametrize("answers_outcome", [False, True])
def test_failed_job_is_found_unless_its_failure_was_the_answer(
    connection: sqlite3.Connection, answers_outcome: bool
) -> None:
    request = replace(REQUEST, answers_outcome=answers_outcome)
    job = make_job()
    jobs.insert(connection, job)
    idempotency.insert(connection, request, job.id, NOW)
    failed = job.ended(Outcome.failed("timeout", "Too long."), NOW)
    endings.update(connection, failed, expected=[job.status])

    found = idempotency.find(connection, request, NOW)

    assert (found is None) is answers_outcome
