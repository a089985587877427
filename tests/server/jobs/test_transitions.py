"""Each transition of a job is one line of the log, with its fields, and is counted once."""

import pytest

from server.job import JobStatus, Outcome
from server.jobs.job_queue import JobQueue
from server.jobs.job_state import JobProgress
from server.jobs.queue_limits import QueueLimits
from server.metrics import Metrics
from server.store.database import Database
from tests.fake_time import FakeTime
from tests.server.jobs.queue_steps import submit


@pytest.fixture
def metrics() -> Metrics:
    return Metrics()


@pytest.fixture
async def queue(database: Database, clock: FakeTime, metrics: Metrics) -> JobQueue:
    queue = JobQueue(database, limits=QueueLimits(3), clock=clock, metrics=metrics)
    await queue.open()
    return queue


@pytest.fixture
def log(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """The transitions that have been logged."""
    caplog.set_level("INFO", logger="server.jobs.transitions")
    return caplog


def counts(metrics: Metrics, name: str) -> list[str]:
    """The series of a counter or histogram that are not zero."""
    lines = metrics.render().decode().splitlines()
    return [line for line in lines if line.startswith(name) and not line.endswith(" 0.0")]


async def test_each_transition_is_one_line_without_the_prompt(
    queue: JobQueue, clock: FakeTime, log: pytest.LogCaptureFixture
) -> None:
    start = clock.now
    job = await submit(queue, owner="alice", created_at=start, prepared_at=None)
    clock.now = start + 2
    await queue.mark_prepared(job.id)
    clock.now = start + 5
    job = await queue.claim()
    for after_s, stage, step in ((6, "encode", 0), (7, "denoise", 0), (8, "denoise", 1)):
        clock.now = start + after_s
        queue.report(job.id, JobProgress(stage, step, 4))
    clock.now = start + 9
    await queue.finish(job, Outcome(JobStatus.SUCCEEDED))

    assert [record.getMessage() for record in log.records] == [
        f"job {job.id} queued by native edits",
        f"job {job.id} prepared in 2.00 s",
        f"job {job.id} started after waiting 3.00 s",
        f"job {job.id} reached encode after 1.00 s",
        f"job {job.id} reached denoise after 2.00 s",
        f"job {job.id} succeeded after 9.00 s",
    ]
    assert {(vars(each)["job"], vars(each)["owner"]) for each in log.records} == {(job.id, "alice")}
    assert [
        (vars(each)["status"], vars(each)["stage"], vars(each)["seconds"]) for each in log.records
    ] == [
        ("queued", None, None),
        ("queued", None, 2),
        ("running", None, 3),
        ("running", "encode", 1),
        ("running", "denoise", 2),
        ("succeeded", "denoise", 9),
    ]


async def test_ended_jobs_are_counted_once_by_contract_and_outcome(
    queue: JobQueue, metrics: Metrics
) -> None:
    seconds = {"encode": 0.2, "denoise": 3.0}
    await submit(queue)
    succeeded = await queue.claim()
    for _ in range(2):
        await queue.finish(succeeded, Outcome(JobStatus.SUCCEEDED, seconds=seconds))
    await submit(queue, contract="openai")
    await queue.finish(await queue.claim(), Outcome.failed("timeout", "Too long."))
    waiting = await submit(queue, contract="openai")
    await queue.cancel(waiting.id)

    assert counts(metrics, "qwen_edit_jobs_total") == [
        'qwen_edit_jobs_total{contract="native",outcome="succeeded"} 1.0',
        'qwen_edit_jobs_total{contract="openai",outcome="failed"} 1.0',
        'qwen_edit_jobs_total{contract="openai",outcome="canceled"} 1.0',
    ]
    assert counts(metrics, "qwen_edit_job_failures_total") == [
        'qwen_edit_job_failures_total{code="timeout"} 1.0'
    ]
    assert counts(metrics, "qwen_edit_stage_seconds_sum") == [
        'qwen_edit_stage_seconds_sum{stage="encode"} 0.2',
        'qwen_edit_stage_seconds_sum{stage="denoise"} 3.0',
    ]


async def test_requeued_job_is_not_counted_unless_that_ends_it(
    queue: JobQueue, metrics: Metrics, log: pytest.LogCaptureFixture
) -> None:
    await submit(queue)
    job = await queue.requeue(await queue.claim())
    assert log.records[-1].getMessage() == f"job {job.id} queued again"
    assert counts(metrics, "qwen_edit_jobs_total") == []

    job = await queue.claim()
    await queue.cancel(job.id)
    await queue.requeue(job)

    assert counts(metrics, "qwen_edit_jobs_total") == [
        'qwen_edit_jobs_total{contract="native",outcome="canceled"} 1.0'
    ]


async def test_failure_names_its_code_and_the_stage_it_happened_in(
    queue: JobQueue, clock: FakeTime, log: pytest.LogCaptureFixture
) -> None:
    await submit(queue, created_at=clock.now)
    job = await queue.claim()
    queue.report(job.id, JobProgress("denoise", 1, 4))
    clock.now += 4
    await queue.finish(job, Outcome.failed("timeout", "The job ran too long."))

    assert log.records[-1].getMessage() == f"job {job.id} failed (timeout) after 4.00 s"
    assert vars(log.records[-1])["stage"] == "denoise"
