"""The sender of webhooks, with a time of its own: when it tries again, and when no more."""

import asyncio
import contextlib
import sqlite3
from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from pathlib import Path

import pytest

from server.errors import FetchFailed, NotFound
from server.job import Job, JobStatus
from server.jobs.webhook_sender import (
    WebhookFormat,
    WebhookSender,
    backoff_s,
)
from server.store import webhooks
from server.store.database import Database, T
from server.store.webhooks import Delivery, DeliveryState
from tests.make_job import make_job

PATIENCE_S = 60.0


class FakeTime:
    """A clock, and a sleep that moves it at once and notes for how long."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        if seconds:
            self.slept.append(seconds)
        self.now += seconds
        await asyncio.sleep(0)


class FakePoster:
    """Gives the answers in order, then 200."""

    def __init__(self, *answers: int | Exception) -> None:
        self.answers = list(answers)
        self.posts: list[tuple[str, bytes, Mapping[str, str]]] = []
        self.held: dict[str, asyncio.Event] = {}

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, field: str
    ) -> int:
        if url in self.held:
            await self.held[url].wait()
        self.posts.append((url, body, headers))
        answer = self.answers.pop(0) if self.answers else 200
        if isinstance(answer, Exception):
            raise answer
        return answer


@pytest.fixture
def time() -> FakeTime:
    return FakeTime()


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    database = Database(tmp_path / "jobs.sqlite3")
    await database.write(webhooks.create_table)
    yield database
    database.close()


def ended_job(url: str = "https://host/hook", contract: str = "wavespeed") -> Job:
    return make_job(contract=contract, webhook=url, status=JobStatus.SUCCEEDED, finished_at=1000.0)


class Scene:
    """A sender over jobs in memory."""

    def __init__(self, database: Database, poster: FakePoster, time: FakeTime) -> None:
        self.database = database
        self.jobs: dict[str, Job] = {}
        self.added = asyncio.Event()
        self.renders: Callable[[Job], bytes] = lambda job: job.id.encode()
        self.sender = WebhookSender(
            database,
            poster,
            {
                "wavespeed": WebhookFormat(self.render, self.headers, max_retries=3),
                "fal": WebhookFormat(self.render, self.headers, max_retries=10),
            },
            added=self.added,
            find_job=self.find,
            clock=time,
            sleep=time.sleep,
        )

    async def render(self, job: Job) -> bytes:
        return self.renders(job)

    def headers(self, job: Job, timestamp: int, body: bytes) -> Mapping[str, str]:
        return {"signed": f"{job.id} {timestamp} {body.decode()}"}

    async def find(self, job_id: str) -> Job:
        if job_id not in self.jobs:
            raise NotFound
        return self.jobs[job_id]

    async def add(self, job: Job) -> Job:
        self.jobs[job.id] = job
        await self.database.write(partial(webhooks.add_if_asked, job=job))
        self.added.set()
        return job

    async def delivery(self, job: Job) -> Delivery:
        found = await self.database.read(partial(webhooks.get, job_id=job.id))
        assert found is not None
        return found

    async def ended(self, job: Job) -> Delivery:
        """The delivery once it is over."""
        async with asyncio.timeout(PATIENCE_S):
            while True:
                delivery = await self.delivery(job)
                if delivery.state is not DeliveryState.PENDING:
                    return delivery

    @contextlib.asynccontextmanager
    async def serving(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.sender.serve())
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task


async def test_delivery_is_made_with_the_contracts_body_and_headers(
    database: Database, time: FakeTime
) -> None:
    poster = FakePoster()
    scene = Scene(database, poster, time)
    job = await scene.add(ended_job())
    async with scene.serving():
        delivery = await scene.ended(job)

    assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 1)
    ((url, body, headers),) = poster.posts
    assert (url, body) == ("https://host/hook", job.id.encode())
    assert headers == {
        "Content-Type": "application/json",
        "signed": f"{job.id} 1000 {job.id}",
    }


@pytest.mark.parametrize("status", [200, 201, 204, 299])
async def test_any_2xx_is_delivered(database: Database, time: FakeTime, status: int) -> None:
    scene = Scene(database, FakePoster(status), time)
    job = await scene.add(ended_job())
    async with scene.serving():
        assert (await scene.ended(job)).attempts == 1


@pytest.mark.parametrize("answer", [301, 307, 400, 410, 500, FetchFailed("refused")])
async def test_any_other_answer_is_retried(
    database: Database, time: FakeTime, answer: int | Exception
) -> None:
    scene = Scene(database, FakePoster(answer), time)
    job = await scene.add(ended_job())
    async with scene.serving():
        delivery = await scene.ended(job)
    assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 2)


async def test_delivery_is_given_up_after_three_retries_with_backoff(
    database: Database, time: FakeTime
) -> None:
    poster = FakePoster(*[500] * 20)
    scene = Scene(database, poster, time)
    job = await scene.add(ended_job())
    async with scene.serving():
        delivery = await scene.ended(job)

    assert (delivery.state, delivery.attempts) == (DeliveryState.GIVEN_UP, 4)
    assert len(poster.posts) == 4
    assert time.slept == [2.0, 8.0, 32.0]


async def test_number_of_retries_is_the_contracts(database: Database, time: FakeTime) -> None:
    poster = FakePoster(*[500] * 20)
    scene = Scene(database, poster, time)
    job = await scene.add(ended_job(contract="fal"))
    async with scene.serving():
        assert (await scene.ended(job)).attempts == 11
    assert len(poster.posts) == 11


def test_backoff_grows_up_to_ten_minutes() -> None:
    assert [backoff_s(attempts) for attempts in (1, 2, 3, 4, 5, 6, 10)] == [
        *(2.0, 8.0, 32.0, 128.0, 512.0, 600.0, 600.0)
    ]


async def test_next_sender_resumes_pending_deliveries(database: Database, time: FakeTime) -> None:
    async def never(_: float) -> None:
        await asyncio.Event().wait()

    first = Scene(database, FakePoster(500), time)
    job = await first.add(ended_job())
    first.sender._sleep = lambda seconds: never(seconds) if seconds else asyncio.sleep(0)
    async with first.serving(), asyncio.timeout(PATIENCE_S):
        while (await first.delivery(job)).attempts == 0:
            pass

    time.now += 1.5
    poster = FakePoster()
    second = Scene(database, poster, time)
    second.jobs[job.id] = job
    async with second.serving():
        delivery = await second.ended(job)

    assert (delivery.state, delivery.attempts) == (DeliveryState.DELIVERED, 2)
    # what was left of the two seconds
    assert time.slept == [0.5]


async def test_deleted_job_is_not_delivered(database: Database, time: FakeTime) -> None:
    poster = FakePoster()
    scene = Scene(database, poster, time)
    job = await scene.add(ended_job())
    scene.jobs.clear()
    async with scene.serving():
        assert (await scene.ended(job)).state is DeliveryState.GIVEN_UP
    assert poster.posts == []


async def test_slow_receiver_delays_no_other(database: Database, time: FakeTime) -> None:
    poster = FakePoster()
    poster.held["https://slow/"] = asyncio.Event()
    scene = Scene(database, poster, time)
    slow = await scene.add(ended_job("https://slow/"))
    async with scene.serving():
        fast = await scene.add(ended_job("https://fast/"))
        assert (await scene.ended(fast)).state is DeliveryState.DELIVERED
        assert (await scene.delivery(slow)).state is DeliveryState.PENDING
        poster.held["https://slow/"].set()
        assert (await scene.ended(slow)).state is DeliveryState.DELIVERED
    assert [url for url, _, _ in poster.posts] == ["https://fast/", "https://slow/"]


async def test_delivery_that_ends_while_the_pending_ones_are_read_is_not_made_again(
    tmp_path: Path, time: FakeTime
) -> None:
    class HeldDatabase(Database):
        """Gives what it has read of the pending deliveries when it is let go."""

        def __init__(self, path: Path) -> None:
            super().__init__(path)
            self.has_read, self.may_go_on = asyncio.Event(), asyncio.Event()
            self.may_go_on.set()

        async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
            found = await super().read(work)
            if work is webhooks.pending:
                self.has_read.set()
                await self.may_go_on.wait()
            return found

    database = HeldDatabase(tmp_path / "jobs.sqlite3")
    await database.write(webhooks.create_table)
    poster = FakePoster()
    poster.held["https://slow/"] = asyncio.Event()
    scene = Scene(database, poster, time)
    slow = await scene.add(ended_job("https://slow/"))
    async with scene.serving():
        await database.has_read.wait()
        database.has_read.clear()
        database.may_go_on.clear()
        fast = await scene.add(ended_job("https://fast/"))
        await database.has_read.wait()
        poster.held["https://slow/"].set()
        assert (await scene.ended(slow)).state is DeliveryState.DELIVERED
        database.may_go_on.set()
        assert (await scene.ended(fast)).state is DeliveryState.DELIVERED
    database.close()
    assert [url for url, _, _ in poster.posts] == ["https://slow/", "https://fast/"]


async def test_failing_render_is_retried_and_affects_no_other_delivery(
    database: Database, time: FakeTime, caplog: pytest.LogCaptureFixture
) -> None:
    scene = Scene(database, FakePoster(), time)

    def broken(job: Job) -> bytes:
        raise ValueError("broken")

    scene.renders = broken
    first = await scene.add(ended_job())
    async with scene.serving():
        assert (await scene.ended(first)).state is DeliveryState.GIVEN_UP
        scene.renders = lambda job: b"{}"
        second = await scene.add(ended_job())
        assert (await scene.ended(second)).state is DeliveryState.DELIVERED
    assert "failed in the server" in caplog.text


async def test_job_of_a_contract_without_webhooks_is_given_up(
    database: Database, time: FakeTime
) -> None:
    scene = Scene(database, FakePoster(), time)
    job = await scene.add(ended_job(contract="native"))
    async with scene.serving():
        assert (await scene.ended(job)).state is DeliveryState.GIVEN_UP
