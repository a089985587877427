"""The step watchdog: what counts as silence, and what becomes of a silent worker's job."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from pipelines.api.messages import Preview, Stage, Step
from pipelines.api.params import EditParams
from server.jobs.run_limits import CANCEL_GRACE_S
from server.jobs.step_watchdog import JobKind, SilenceWatch, StepTimes
from tests.fake_time import FakeTime
from tests.make_job import make_job
from tests.server.jobs.conftest import JOB_TIMEOUT_S, Scene, soon

MakeScene = Callable[..., Awaitable[Scene]]

KIND = JobKind(32, 1)
ENCODE = Step("mine", Stage.ENCODE, 0, 4)


def step(number: int) -> Step:
    return Step("mine", Stage.DENOISE, number, 4)


@pytest.mark.parametrize(("slowest_s", "limit_s"), [(0.5, 60), (3, 60), (3.5, 70), (40, 800)])
def test_limit_is_20_times_the_slowest_step_and_at_least_60_s(
    slowest_s: float, limit_s: float
) -> None:
    times = StepTimes(None)
    for silence_s in (0.1, slowest_s, 0.2):
        times.note(KIND, silence_s, is_step=True)

    assert times.limit_s(KIND) == limit_s


def test_steps_alone_are_passed_on_for_the_metrics() -> None:
    seen: list[float] = []
    times = StepTimes(None, on_step=seen.append)
    times.note(KIND, 30, is_step=False)
    times.note(KIND, 1, is_step=True)

    assert seen == [1]


def test_slow_encoding_raises_the_limit_but_sets_none() -> None:
    times = StepTimes(None)
    times.note(KIND, 30, is_step=False)
    before = times.limit_s(KIND)
    times.note(KIND, 1, is_step=True)

    assert (before, times.limit_s(KIND)) == (None, 600)


def test_steps_of_another_kind_set_no_limit() -> None:
    times = StepTimes(None)
    times.note(KIND, 1, is_step=True)

    assert times.limit_s(JobKind(32, 2)) is None
    assert times.limit_s(JobKind(33, 1)) is None


def test_limit_of_the_operator_holds_from_the_start() -> None:
    times = StepTimes(7)
    times.note(KIND, 100, is_step=True)

    assert times.limit_s(KIND) == times.limit_s(JobKind(None, 3)) == 7


@pytest.mark.parametrize(
    ("size", "images", "kind"),
    [
        ((256, 256), (None,), JobKind(32, 1)),
        ((256, 288), (None,), JobKind(32, 1)),
        ((1024, 1024), (None, None), JobKind(40, 2)),
        (None, (None,), JobKind(None, 1)),
    ],
)
def test_kind_is_the_size_and_the_number_of_images(
    size: tuple[int, int] | None, images: tuple[None, ...], kind: JobKind
) -> None:
    job = make_job(params=EditParams("a", 1, size=size), images=images)

    assert JobKind.of(job) == kind


async def test_watch_ends_after_the_limit_from_the_last_sign_of_life() -> None:
    time = FakeTime()
    watch = SilenceWatch(StepTimes(None), KIND, time, time.sleep)
    silence = asyncio.create_task(watch.silence())
    for event, after_s in ((ENCODE, 50.0), (step(1), 4.0), (step(2), 4.0)):
        time.now += after_s
        watch.hear(event)
    # the encoding is the longest silence: 20 × 50
    await soon(time.pass_by(999))
    watch.hear(Preview("mine", 0, 1, 1, b"abc"))
    assert not silence.done()
    # the watchdog sleeps until the first deadline, then until that of the preview
    await soon(time.pass_by(1))
    await soon(time.pass_by(20 * 999))

    assert await soon(silence) == 20 * 999


async def test_silent_worker_is_killed_and_its_job_retried_once(make_scene: MakeScene) -> None:
    scene = await make_scene(step_timeout_s=10)
    job = await scene.submit()
    async with scene.serving():
        for _ in range(2):
            await scene.started()
            await soon(scene.time.pass_by(10))
        ended = await scene.ended(job)

    assert scene.executor.killed == [job.id, job.id]
    assert ended.error is not None
    assert ended.error.code == "worker_lost"
    assert ended.error.message.endswith("SIGKILL after 10 s without progress.")
    assert (ended.attempts, ended.starts) == (1, 2)


async def test_canceled_job_of_a_silent_worker_ends_without_a_retry(make_scene: MakeScene) -> None:
    scene = await make_scene(step_timeout_s=10)
    job = await scene.submit()
    async with scene.serving():
        await scene.started()
        await scene.service.cancel(job.id)
        await soon(scene.time.pass_by(10))
        ended = await scene.ended(job)

    assert (ended.status, ended.starts) == ("canceled", 1)


async def test_next_job_of_the_kind_is_watched_by_the_steps_of_the_first(scene: Scene) -> None:
    await scene.submit()
    second = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        run.step()
        run.image()
        run.done()
        await scene.started()
        await soon(scene.time.pass_by(60))
        again = await scene.started()

    assert scene.executor.killed == [second.id]
    assert again.job_id == second.id


async def test_only_the_time_limit_counts_until_a_step_was_seen(scene: Scene) -> None:
    job = await scene.submit()
    async with scene.serving():
        run = await scene.started()
        run.step(Stage.ENCODE, 0)
        await soon(scene.time.pass_by(JOB_TIMEOUT_S - 1))
        run.image()
        run.done()
        ended = await scene.ended(job)

    assert ended.status == "succeeded"
    assert scene.executor.killed == []


async def test_time_limit_kills_a_worker_that_takes_no_cancel(scene: Scene) -> None:
    scene.executor.takes_cancels = False
    job = await scene.submit()
    async with scene.serving():
        await scene.started()
        await soon(scene.time.pass_by(JOB_TIMEOUT_S))
        await soon(scene.time.pass_by(CANCEL_GRACE_S))
        ended = await scene.ended(job)

    assert scene.executor.killed == [job.id]
    assert ended.error is not None
    assert ended.error.code == "timeout"
