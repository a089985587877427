"""The page's edits in the queue."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from server.errors import NotFound, QueueFull
from server.job import Job, JobStatus, Submission
from server.jobs.job_queue import JobProgress, JobState
from server.jobs.service import EditService
from server.playground import runner
from server.playground.form import Form, SlotImage
from server.playground.images import ImageShelf, KeptImage
from server.playground.runner import Runner
from tests.make_job import make_job


class FakeService:
    """Keeps what was submitted; each job changes when the test says so."""

    def __init__(self, room: int = 9) -> None:
        self.room = room
        self.submitted: list[tuple[Submission, Sequence[str | bytes]]] = []
        self.canceled: list[str] = []
        self.changes: dict[str, asyncio.Queue[JobState | None]] = {}

    async def submit(self, submission: Submission, images: Sequence[str | bytes]) -> Job:
        if len(self.submitted) == self.room:
            raise QueueFull("full", retry_after_s=1)
        self.submitted.append((submission, images))
        return Job(submission, (), 0.0, id=str(len(self.submitted)))

    async def cancel(self, job_id: str) -> None:
        self.canceled.append(job_id)
        if job_id == "gone":
            raise NotFound

    async def watch(self, job_id: str) -> AsyncIterator[JobState]:
        if job_id == "gone":
            raise NotFound
        queue = self.changes.setdefault(job_id, asyncio.Queue())
        while (state := await queue.get()) is not None:
            yield state

    def tell(self, job_id: str, state: JobState | None) -> None:
        self.changes.setdefault(job_id, asyncio.Queue()).put_nowait(state)


class FakeShelf:
    async def keep(self, image: SlotImage, field: str) -> KeptImage:
        return KeptImage(f"/uploads/{image.name}", image.name)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def runner_of(service: FakeService) -> Runner:
    return Runner(cast(EditService, service), cast(ImageShelf, FakeShelf()), lambda: 3)


def form(**changes: Any) -> Form:
    images = (None, SlotImage("/x/b.png", "b.png"), SlotImage("/x/c.png", "c.png"))
    return Form(**{"prompt": "a", "images": images, **changes})


def state(job_id: str, step: int) -> JobState:
    job = make_job(id=job_id, status=JobStatus.RUNNING)
    return JobState(job, None, JobProgress("denoise", step, 8))


async def test_submit_names_images_by_their_urls_in_order(service: FakeService) -> None:
    await runner_of(service).submit(form(), "http://here")

    submission, images = service.submitted[0]
    assert submission.contract == "page"
    assert images == ["http://here/uploads/b.png", "http://here/uploads/c.png"]
    assert submission.params.seed == 3


async def test_full_queue_takes_all_edits_of_a_grid_or_none(service: FakeService) -> None:
    service.room = 2

    with pytest.raises(QueueFull):
        await runner_of(service).submit_all([form(), form(), form()], "http://here")

    assert service.canceled == ["2", "1"]


async def test_follow_gives_all_states_until_the_last_has_ended(service: FakeService) -> None:
    service.tell("1", state("1", 1))
    following = runner_of(service).follow(["1", "2", "gone"])

    assert (await anext(following))["1"].progress == JobProgress("denoise", 1, 8)
    service.tell("2", state("2", 5))
    service.tell("1", None)
    assert set(await anext(following)) == {"1", "2"}
    service.tell("2", None)
    with pytest.raises(StopAsyncIteration):
        await anext(following)


async def test_follow_says_the_same_again_so_that_a_closed_page_is_noticed(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "REPEAT_INTERVAL_S", 0.001)
    service.tell("1", state("1", 1))
    following = runner_of(service).follow(["1"])

    first, again = await anext(following), await anext(following)

    assert first == again
    await following.aclose()


async def test_cancel_leaves_out_what_is_gone(service: FakeService) -> None:
    await runner_of(service).cancel(["1", "gone", "2"])

    assert service.canceled == ["2", "gone", "1"]
