"""The page's runner."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from typing import Any, cast

import pytest

from pipelines.api.errors import InvalidParameter
from pipelines.api.sizes import SizeBounds
from server.errors import InvalidRequest, NotFound, QueueFull
from server.job import Job, JobStatus, Submission
from server.jobs.job_state import JobProgress, JobState
from server.jobs.service import EditService
from server.playground import runner
from server.playground.form import CUSTOM_SIZE, Form, SlotImage
from server.playground.images import ImageStore, StoredImage
from server.playground.runner import Runner
from tests.make_job import make_job

SIZES = SizeBounds(256, 512)


class FakeService:
    """Records submissions; each job changes when the test says so."""

    def __init__(self, room: int = 9) -> None:
        self.room = room
        self.submitted: list[tuple[Submission, Sequence[str | bytes]]] = []
        self.canceled: list[str] = []
        self.changes: dict[str, asyncio.Queue[JobState | None]] = {}
        self.queue = self

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

    def report(self, job_id: str, state: JobState | None) -> None:
        self.changes.setdefault(job_id, asyncio.Queue()).put_nowait(state)


class FakeImageStore:
    async def store(self, image: SlotImage, field: str, owner: str) -> StoredImage:
        return StoredImage(f"/uploads/{image.name}", image.name)


@pytest.fixture
def service() -> FakeService:
    return FakeService()


def runner_of(service: FakeService) -> Runner:
    return Runner(cast(EditService, service), cast(ImageStore, FakeImageStore()), lambda: 3, SIZES)


def form(**changes: Any) -> Form:
    images = (None, SlotImage("/x/b.png", "b.png"), SlotImage("/x/c.png", "c.png"))
    return Form(**{"prompt": "a", "images": images, **changes})


def state(job_id: str, step: int) -> JobState:
    job = make_job(id=job_id, status=JobStatus.RUNNING)
    return JobState(job, None, JobProgress("denoise", step, 8))


async def test_submit_names_images_by_url_in_order(service: FakeService) -> None:
    await runner_of(service).submit(form(), "http://here", "alice")

    submission, images = service.submitted[0]
    assert submission.contract == "page"
    assert images == ["http://here/uploads/b.png", "http://here/uploads/c.png"]
    assert submission.params.seed == 3


async def test_submit_all_cancels_the_queued_edits_when_the_queue_is_full(
    service: FakeService,
) -> None:
    service.room = 2

    with pytest.raises(QueueFull):
        await runner_of(service).submit_all([form(), form(), form()], "http://here", "alice")

    assert service.canceled == ["2", "1"]


async def test_submit_refuses_a_form_without_images(service: FakeService) -> None:
    empty, runs = form(images=(None, None, None)), runner_of(service)

    for submit in (
        runs.submit(empty, "http://here", "alice"),
        runs.submit_all([empty], "http://here", "alice"),
    ):
        with pytest.raises(InvalidRequest, match="Add an image first") as refused:
            await submit
        assert refused.value.field == "images"

    assert service.submitted == []


async def test_submit_refuses_a_size_that_the_page_does_not_offer(service: FakeService) -> None:
    for size in ({"size": "1024*1024"}, {"size": CUSTOM_SIZE, "width": 513, "height": 512}):
        with pytest.raises(InvalidParameter, match="256–512 pixels") as refused:
            await runner_of(service).submit(form(**size), "http://here", "alice")
        assert refused.value.field == "size"


async def test_follow_yields_all_states_until_the_last_job_ends(service: FakeService) -> None:
    service.report("1", state("1", 1))
    following = runner_of(service).follow(["1", "2", "gone"])

    assert (await anext(following))["1"].progress == JobProgress("denoise", 1, 8)
    service.report("2", state("2", 5))
    service.report("1", None)
    assert set(await anext(following)) == {"1", "2"}
    service.report("2", None)
    with pytest.raises(StopAsyncIteration):
        await anext(following)


async def test_follow_repeats_the_states_when_nothing_changes(
    service: FakeService, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runner, "REPEAT_INTERVAL_S", 0.001)
    service.report("1", state("1", 1))
    following = runner_of(service).follow(["1"])

    first, again = await anext(following), await anext(following)

    assert first == again
    await following.aclose()


async def test_cancel_ignores_deleted_jobs(service: FakeService) -> None:
    await runner_of(service).cancel(["1", "gone", "2"])

    assert service.canceled == ["2", "gone", "1"]
