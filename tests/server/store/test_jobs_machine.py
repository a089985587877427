"""The rules of the queue under any order of events: the database against a model in memory."""

import dataclasses
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from server.job import Job, JobStatus, Outcome
from server.store import jobs, turns
from server.store.database import connect, transaction
from server.store.jobs import JobFilter
from tests.make_job import make_job

ENDINGS = [JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED]


@dataclass
class Expected:
    """The model's view of a job. The order of the model's dict is the order of the jobs."""

    status: JobStatus
    prepared: bool
    starts: int = 0
    attempts: int = 0
    cancel_requested: bool = False


class JobTable(RuleBasedStateMachine):
    """Applies the operations of the server to both the database and the model."""

    added = Bundle("added")

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp())
        self.connection = connect(self.folder / "jobs.sqlite3")
        jobs.create_table(self.connection)
        self.model: dict[str, Expected] = {}
        self.now = 0.0

    def teardown(self) -> None:
        self.connection.close()
        shutil.rmtree(self.folder)

    def tick(self) -> float:
        self.now += 1
        return self.now

    def on_disk(self, job_id: str) -> Job:
        job = jobs.get(self.connection, job_id)
        assert job is not None
        return job

    def change(self, job: Job, expected: JobStatus) -> bool:
        with transaction(self.connection) as connection:
            return jobs.update(connection, job, [expected])

    def with_status(self, status: JobStatus) -> list[str]:
        return [job_id for job_id, job in self.model.items() if job.status is status]

    @rule(target=added, prepared=st.booleans())
    def insert(self, prepared: bool) -> str:
        moment = self.tick()
        job = make_job(
            images=(None if prepared else "https://host/a.png",),
            created_at=moment,
            prepared_at=moment if prepared else None,
        )
        with transaction(self.connection) as connection:
            jobs.insert(connection, job)
        self.model[job.id] = Expected(JobStatus.QUEUED, prepared)
        return job.id

    @rule(job_id=added)
    def mark_prepared(self, job_id: str) -> None:
        job, known = self.on_disk(job_id), self.model[job_id]
        was_queued = known.status is JobStatus.QUEUED
        changed = job.evolve(prepared_at=self.tick())

        assert self.change(changed, JobStatus.QUEUED) is was_queued
        known.prepared = known.prepared or was_queued

    @rule()
    def claim(self) -> None:
        ready = [k for k in self.with_status(JobStatus.QUEUED) if self.model[k].prepared]

        with transaction(self.connection) as connection:
            job = jobs.claim(connection, self.tick())

        assert (job.id if job else None) == (ready[0] if ready else None)
        if job is not None:
            known = self.model[job.id]
            known.status, known.starts = JobStatus.RUNNING, known.starts + 1

    @precondition(lambda self: self.with_status(JobStatus.RUNNING))
    @rule(data=st.data())
    def requeue(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(self.with_status(JobStatus.RUNNING)))
        job = self.on_disk(job_id)
        back = job.evolve(status=JobStatus.QUEUED, attempts=job.attempts + 1)

        assert self.change(back, JobStatus.RUNNING)
        self.model[job_id].status = JobStatus.QUEUED
        self.model[job_id].attempts += 1

    @precondition(lambda self: self.with_status(JobStatus.RUNNING))
    @rule(data=st.data(), ending=st.sampled_from(ENDINGS))
    def finish(self, data: st.DataObject, ending: JobStatus) -> None:
        job_id = data.draw(st.sampled_from(self.with_status(JobStatus.RUNNING)))
        ended = self.on_disk(job_id).ended(Outcome(ending), self.tick())

        assert self.change(ended, JobStatus.RUNNING)
        self.model[job_id].status = ending

    @rule(job_id=added)
    def finish_late(self, job_id: str) -> None:
        """Finish a job again from a stale copy: only a running job may finish."""
        known = self.model[job_id]
        # Like a stale copy, this bypasses the rules of the job itself.
        ended = dataclasses.replace(self.on_disk(job_id), status=JobStatus.FAILED)
        was_running = known.status is JobStatus.RUNNING

        assert self.change(ended, JobStatus.RUNNING) is was_running
        if was_running:
            known.status = JobStatus.FAILED

    @rule(job_id=added)
    def cancel(self, job_id: str) -> None:
        job, known = self.on_disk(job_id), self.model[job_id]
        if known.status is JobStatus.QUEUED:
            ended = job.ended(Outcome(JobStatus.CANCELED), self.tick())
            assert self.change(ended, JobStatus.QUEUED)
            known.status = JobStatus.CANCELED
        elif known.status is JobStatus.RUNNING:
            assert self.change(job.evolve(cancel_requested=True), JobStatus.RUNNING)
            known.cancel_requested = True

    @rule(target=added, job_id=consumes(added))
    def delete(self, job_id: str) -> object:
        is_final = self.model[job_id].status.is_final

        with transaction(self.connection) as connection:
            assert jobs.delete(connection, job_id) is is_final

        if not is_final:
            return job_id
        del self.model[job_id]
        return multiple()

    @rule()
    def reopen(self) -> None:
        self.connection.close()
        self.connection = connect(self.folder / "jobs.sqlite3")
        jobs.create_table(self.connection)

    @invariant()
    def file_contains_exactly_the_jobs_of_the_model(self) -> None:
        found, total = jobs.search(self.connection, JobFilter(), limit=10_000, offset=0)

        assert total == len(self.model)
        assert [job.id for job in reversed(found)] == list(self.model)

    @invariant()
    def every_job_matches_the_model(self) -> None:
        for job_id, known in self.model.items():
            job = self.on_disk(job_id)
            assert known == Expected(
                job.status,
                job.prepared_at is not None,
                job.starts,
                job.attempts,
                job.cancel_requested,
            )

    @invariant()
    def positions_count_from_the_front_of_the_queue(self) -> None:
        queued = self.with_status(JobStatus.QUEUED)

        found = [turns.position(self.connection, job_id) for job_id in queued]

        assert found == list(range(len(queued)))

    @invariant()
    def next_prepared_is_the_first_that_can_run(self) -> None:
        ready = [k for k in self.with_status(JobStatus.QUEUED) if self.model[k].prepared]

        found = jobs.next_prepared(self.connection)

        assert (found.id if found else None) == (ready[0] if ready else None)

    @invariant()
    def counts_add_up(self) -> None:
        for status in JobStatus:
            assert jobs.count(self.connection, status) == len(self.with_status(status))


# Each step commits to disk; a few thousand of them take seconds.
JobTable.TestCase.settings = settings(max_examples=60, stateful_step_count=50, deadline=None)

TestJobTable = JobTable.TestCase
