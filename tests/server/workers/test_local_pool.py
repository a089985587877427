"""The local pool: which worker gets a job, and what becomes of a worker that dies."""

import asyncio
import contextlib
import dataclasses
import shlex
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pipelines.api.messages import Canceled, Done, Failed, JobEvent, Step
from server.metrics import Metrics
from server.workers.executor import Executor, ExecutorState, WorkerDied
from server.workers.local_pool import LocalPool, retry_delay_s
from server.workers.local_process import WorkerOptions
from tests.fake_time import FakeTime
from tests.server.workers.conftest import COMMAND, LORAS, PARAMS

PATIENCE_S = 60.0

Options = Callable[[str], WorkerOptions]


@contextlib.asynccontextmanager
async def pool(
    *workers: WorkerOptions,
    time: FakeTime | None = None,
    metrics: Metrics | None = None,
    load_silence_s: float = 60.0,
) -> AsyncIterator[LocalPool]:
    """A started pool that is stopped after the block; retries wait for `time`, if given."""
    made = LocalPool(
        workers,
        sleep=time.sleep if time else asyncio.sleep,
        metrics=metrics,
        load_silence_s=load_silence_s,
    )
    made.start()
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield made
    finally:
        await made.stop()


async def run(executor: Executor, job_id: str = "mine") -> list[JobEvent]:
    return [event async for event in executor.run(job_id, PARAMS, (b"image",), LORAS)]


async def failed(executor: Executor, time: FakeTime, after_s: float = 0) -> str:
    """The reason why no worker could be started, once the next attempt is waiting."""
    await time.pass_by(after_s)
    assert executor.state is ExecutorState.FAILED
    assert executor.failure is not None
    return executor.failure


async def test_pool_is_starting_then_ready_then_busy(options: Options) -> None:
    async with pool(options("waits")) as executor:
        states = [executor.state]
        await executor.ready()
        states.append(executor.state)
        events = executor.run("mine", PARAMS, (b"image",), ())
        await anext(events)
        states.append(executor.state)
        await executor.cancel("mine")
        assert await anext(events) == Canceled("mine")
        await events.aclose()
        states.append(executor.state)

    assert states == [
        ExecutorState.STARTING,
        ExecutorState.READY,
        ExecutorState.BUSY,
        ExecutorState.READY,
    ]


async def test_model_is_what_the_worker_has_loaded(options: Options) -> None:
    async with pool(options("obeys")) as executor:
        assert executor.model is None
        await executor.ready()

        assert executor.model is not None
        assert executor.model.model.name == "scripted"


async def test_run_waits_for_a_worker_and_sends_it_everything(options: Options, log: Path) -> None:
    async with pool(options("obeys")) as executor:
        events = await run(executor)

    assert [type(event) for event in events] == [Step, Done]
    received = log.read_text()
    assert repr(PARAMS) in received
    assert f"loras={LORAS!r}" in received


async def test_each_device_has_a_worker_of_its_own(options: Options) -> None:
    async with pool(options("waits"), options("waits")) as executor:
        assert executor.concurrency == 2
        runs = {name: executor.run(name, PARAMS, (b"image",), ()) for name in ("a", "b")}
        assert {(await anext(events)).job_id for events in runs.values()} == {"a", "b"}
        for name, events in runs.items():
            await executor.cancel(name)
            assert await anext(events) == Canceled(name)
            await events.aclose()


async def test_worker_that_dies_in_a_run_is_replaced(options: Options) -> None:
    async with pool(options("dies running")) as executor:
        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            await run(executor)

        await executor.ready()
        assert executor.state is ExecutorState.READY


async def test_worker_whose_run_is_abandoned_is_killed_and_replaced(options: Options) -> None:
    async with pool(options("waits")) as executor:
        events = executor.run("mine", PARAMS, (b"image",), ())
        await anext(events)
        await events.aclose()

        await executor.ready()
        following = executor.run("other", PARAMS, (b"image",), ())
        assert (await anext(following)).job_id == "other"
        await executor.cancel("other")
        assert await anext(following) == Canceled("other")
        await following.aclose()


async def test_killed_worker_ends_its_run(options: Options) -> None:
    async with pool(options("waits")) as executor:
        events = executor.run("mine", PARAMS, (b"image",), ())
        await anext(events)
        await executor.kill("mine")

        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            await anext(events)


async def test_unknown_jobs_are_ignored(options: Options, log: Path) -> None:
    async with pool(options("obeys")) as executor:
        await executor.ready()
        await executor.cancel("other")
        await executor.preload("other", LORAS)
        await executor.kill("other")
        assert executor.state is ExecutorState.READY

    assert log.read_text() == "Stop()\n"


async def test_preload_reaches_the_worker_of_the_job(options: Options, log: Path) -> None:
    async with pool(options("waits")) as executor:
        events = executor.run("mine", PARAMS, (b"image",), ())
        await anext(events)
        await executor.preload("mine", LORAS)
        await executor.cancel("mine")
        await anext(events)
        await events.aclose()

    assert f"Preload(loras={LORAS!r})" in log.read_text()


async def test_broken_model_fails_the_pool_with_the_reason(options: Options) -> None:
    time = FakeTime()
    async with pool(options("broken model"), time=time) as executor:
        reason = await failed(executor, time)

    assert reason == "The model is broken. Next attempt in 1 s."


async def test_worker_that_dies_while_it_loads_is_the_reason(options: Options) -> None:
    time = FakeTime()
    async with pool(options("dies loading"), time=time) as executor:
        reason = await failed(executor, time)

    assert reason.endswith("exited with code 3 while it loaded the model. Next attempt in 1 s.")


async def test_worker_that_hangs_while_it_loads_is_killed(options: Options) -> None:
    time = FakeTime()
    async with pool(options("loads for ever"), time=time, load_silence_s=1) as executor:
        reason = await failed(executor, time)

    assert reason.endswith(
        "was killed by SIGKILL: it loaded the model without progress for 1 s. Next attempt in 1 s."
    )


@pytest.mark.parametrize("behavior", ["broken once", "dies loading once"])
async def test_failed_load_is_retried(options: Options, behavior: str) -> None:
    time = FakeTime()
    async with pool(options(behavior), time=time) as executor:
        await failed(executor, time)
        await time.pass_by(1)
        await executor.ready()

        assert (executor.failure, executor.state) == (None, ExecutorState.READY)
        assert isinstance((await run(executor))[-1], Done)


async def test_failed_spawn_is_reported_and_retried(options: Options, tmp_path: Path) -> None:
    time, program = FakeTime(), tmp_path / "worker"
    missing = dataclasses.replace(options("obeys"), command=(str(program),))
    async with pool(missing, time=time) as executor:
        reason = await failed(executor, time)
        program.write_text(f'#!/bin/sh\nexec {shlex.join(COMMAND)} "$@"\n')
        program.chmod(0o755)
        await time.pass_by(1)
        await executor.ready()

        assert (executor.failure, executor.state) == (None, ExecutorState.READY)
    assert reason == (
        "A worker process cannot be started: No such file or directory. Next attempt in 1 s."
    )


def test_retries_of_a_load_wait_longer_each_time_up_to_five_minutes() -> None:
    assert [retry_delay_s(failures) for failures in (1, 2, 3, 4, 5, 6, 10**6)] == [
        1, 4, 16, 64, 256, 300, 300,
    ]  # fmt: skip


async def test_worker_whose_device_fails_is_replaced_and_gets_no_other_job(
    options: Options,
) -> None:
    async with pool(options("device fails")) as executor:
        await executor.ready()
        [broken] = executor._alive
        failure = (await run(executor))[-1]
        assert executor.state is not ExecutorState.READY
        await executor.ready()

        assert isinstance(failure, Failed)
        assert broken not in executor._alive


async def test_worker_that_reads_nothing_delays_no_cancel_and_no_kill(options: Options) -> None:
    async with pool(options("reads nothing")) as executor:
        events = executor.run("mine", PARAMS, (bytes(4 * 2**20),), ())
        event = asyncio.ensure_future(anext(events))
        await executor.ready()
        await asyncio.sleep(0)
        await executor.preload("mine", LORAS)
        await executor.cancel("mine")
        await executor.kill("mine")

        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            await event


async def test_pool_serves_as_long_as_one_worker_is_left(options: Options) -> None:
    async with pool(options("broken model"), options("obeys")) as executor:
        await executor.ready()
        assert (executor.failure, executor.state) == (None, ExecutorState.READY)
        assert isinstance((await run(executor))[-1], Done)


@pytest.mark.parametrize("behavior", ["obeys", "loads for ever"])
async def test_stop_ends_the_workers_and_starts_no_more(options: Options, behavior: str) -> None:
    async with pool(options(behavior)) as executor:
        if behavior == "obeys":
            await executor.ready()
        await executor.stop()
        await asyncio.sleep(0)

        assert executor.state is not ExecutorState.READY
        executor.start()
        assert executor.state is ExecutorState.STARTING


async def test_restarts_are_counted_but_not_the_stop(options: Options) -> None:
    metrics = Metrics()
    async with pool(options("dies running"), metrics=metrics) as executor:
        with pytest.raises(WorkerDied):
            await run(executor)
        await executor.ready()

    assert b"qwen_edit_worker_restarts_total 1.0" in metrics.render()


async def test_failed_loads_are_counted(options: Options) -> None:
    metrics, time = Metrics(), FakeTime()
    async with pool(options("broken once"), time=time, metrics=metrics) as executor:
        await failed(executor, time)
        await time.pass_by(1)
        await executor.ready()

    assert b"qwen_edit_worker_load_failures_total 1.0" in metrics.render()
    assert b"qwen_edit_worker_restarts_total 0.0" in metrics.render()


async def test_counts_of_workers_add_up_over_their_replacements(options: Options) -> None:
    metrics = Metrics()
    async with pool(options("obeys"), metrics=metrics) as executor:
        for job_id in ("first", "second"):
            await run(executor, job_id)
            # abandoned: its worker is replaced and counts from 0 again
            await executor.run("left", PARAMS, (b"image",), ()).aclose()
            events = executor.run("left", PARAMS, (b"image",), ())
            await anext(events)
            await events.aclose()
            await executor.ready()

    shown = metrics.render().decode()
    assert "qwen_edit_lora_cache_hits_total 4.0" in shown
    assert "qwen_edit_lora_cache_misses_total 2.0" in shown
    assert 'qwen_edit_lora_cache_bytes{device="cuda:0",memory="host"} 7.0' in shown
    assert 'qwen_edit_lora_cache_bytes{device="cuda:0",memory="device"} 8.0' in shown
    for kind, value in (("used", 30), ("peak", 40), ("total", 90)):
        assert f'qwen_edit_device_memory_bytes{{device="cuda:0",kind="{kind}"}} {value}.0' in shown
