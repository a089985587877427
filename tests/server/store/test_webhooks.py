"""The table of deliveries: a job that ends gets one in the same transaction, or none."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from server.job import Job, JobStatus, Outcome
from server.store import endings, jobs, webhooks
from server.store.database import connect, transaction
from server.store.webhooks import Delivery, DeliveryState
from tests.make_job import make_job

URL = "https://host/hook"
FINAL = [status for status in JobStatus if status.is_final]


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[sqlite3.Connection]:
    connection = connect(tmp_path / "jobs.sqlite3")
    jobs.create_table(connection)
    webhooks.create_table(connection)
    yield connection
    connection.close()


def running(connection: sqlite3.Connection, webhook: str | None = URL) -> Job:
    jobs.insert(connection, make_job(webhook=webhook))
    job = jobs.claim(connection, 200.0)
    assert job is not None
    return job


def end(connection: sqlite3.Connection, job: Job, status: JobStatus = JobStatus.FAILED) -> bool:
    return endings.update(connection, job.ended(Outcome(status), 300.0), [job.status])


@pytest.mark.parametrize("status", FINAL)
def test_job_that_ends_gets_a_delivery_that_is_due(
    connection: sqlite3.Connection, status: JobStatus
) -> None:
    job = running(connection)
    assert end(connection, job, status)
    assert webhooks.pending(connection) == [
        Delivery(1, job.id, "native", URL, 0, 300.0, DeliveryState.PENDING)
    ]


def test_job_without_webhook_gets_none(connection: sqlite3.Connection) -> None:
    end(connection, running(connection, None))
    assert webhooks.pending(connection) == []


def test_unfinished_job_gets_none(connection: sqlite3.Connection) -> None:
    job = running(connection)
    endings.update(connection, job.evolve(prepared_at=150.0), [job.status])
    assert webhooks.pending(connection) == []
    assert endings.requeue(connection, job.id, 250.0).status is JobStatus.QUEUED
    assert webhooks.pending(connection) == []


def test_job_that_ends_as_its_worker_dies_gets_a_delivery(connection: sqlite3.Connection) -> None:
    job = running(connection)
    endings.update(connection, job.evolve(cancel_requested=True), [job.status])
    assert endings.requeue(connection, job.id, 250.0).status is JobStatus.CANCELED
    assert [delivery.next_at for delivery in webhooks.pending(connection)] == [250.0]


def test_refused_update_adds_no_delivery(connection: sqlite3.Connection) -> None:
    job = running(connection)
    assert end(connection, job)
    assert not end(connection, job, JobStatus.SUCCEEDED)
    assert len(webhooks.pending(connection)) == 1


def test_end_and_delivery_are_undone_together(connection: sqlite3.Connection) -> None:
    job = running(connection)

    def end_and_break() -> None:
        with transaction(connection):
            end(connection, job)
            raise RuntimeError

    with pytest.raises(RuntimeError):
        end_and_break()

    assert jobs.get(connection, job.id) == job
    assert webhooks.get(connection, job.id) is None


def test_delivery_is_read_back(connection: sqlite3.Connection) -> None:
    job = running(connection)
    end(connection, job)
    (delivery,) = webhooks.pending(connection)
    tried = replace(delivery, attempts=2, next_at=400.5)
    webhooks.update(connection, tried)
    assert webhooks.pending(connection) == [tried]
    webhooks.update(connection, replace(tried, state=DeliveryState.DELIVERED))
    assert webhooks.pending(connection) == []


def test_delete_removes_the_delivery_with_its_job(connection: sqlite3.Connection) -> None:
    first, second = running(connection), running(connection)
    for job in (first, second):
        end(connection, job)
    assert endings.delete(connection, first.id)
    assert [delivery.job_id for delivery in webhooks.pending(connection)] == [second.id]


def test_refused_delete_keeps_the_pending_delivery(
    connection: sqlite3.Connection,
) -> None:
    job = running(connection)
    assert not endings.delete(connection, job.id)
    end(connection, job)
    assert len(webhooks.pending(connection)) == 1
