"""One worker process over a real socket: what it sends, and how its end is reported."""

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pipelines.api.messages import Canceled, Done, LoadFailed, Ready, Stage, Step
from server.workers import local_process
from server.workers.executor import WorkerDied
from server.workers.local_process import WORKER_COMMAND, WorkerOptions, WorkerProcess
from tests.live_server import is_alive
from tests.server.workers.conftest import LORAS, RUN

PATIENCE_S = 60.0

Options = Callable[[str], WorkerOptions]


@contextlib.asynccontextmanager
async def worker(options: WorkerOptions) -> AsyncIterator[tuple[WorkerProcess, asyncio.Event]]:
    """A started worker, and an event that is set once it has exited."""
    exited = asyncio.Event()
    process = WorkerProcess.start(options, lambda _: exited.set(), lambda pid, usage: None)
    try:
        async with asyncio.timeout(PATIENCE_S):
            yield process, exited
    finally:
        process.kill()
        await process.stop()


async def test_worker_is_ready_once_it_has_loaded(options: Options) -> None:
    async with worker(options("obeys")) as (process, _):
        answer = await process.ready()

    assert isinstance(answer, Ready)
    assert answer.model.name == "scripted"


async def test_worker_says_why_its_model_cannot_be_loaded(options: Options) -> None:
    async with worker(options("broken model")) as (process, exited):
        answer = await process.ready()
        await exited.wait()

    assert answer == LoadFailed("model_unusable", "The model is broken.")


async def test_worker_that_exits_by_itself_leaves_no_zombie(options: Options) -> None:
    process = WorkerProcess.start(options("dies loading"), lambda _: None, lambda pid, usage: None)

    await asyncio.to_thread(process._reader.join, PATIENCE_S)

    assert not Path(f"/proc/{process.pid}").exists()


async def test_worker_that_dies_while_it_loads_is_reported_with_its_exit_code(
    options: Options,
) -> None:
    async with worker(options("dies loading")) as (process, exited):
        with pytest.raises(WorkerDied, match=rf"^worker {process.pid} exited with code 3$"):
            await process.ready()
        await exited.wait()


async def test_run_yields_the_events_of_its_job_alone(options: Options) -> None:
    async with worker(options("obeys")) as (process, _):
        await process.ready()
        events = [event async for event in process.run(RUN)]

    assert events[0] == Step("mine", Stage.DENOISE, 1, 3)
    assert [type(event) for event in events] == [Step, Done]


async def test_run_can_be_repeated(options: Options) -> None:
    async with worker(options("obeys")) as (process, _):
        await process.ready()
        for job_id in ("first", "second"):
            run = dataclasses.replace(RUN, job_id=job_id)
            assert [event.job_id async for event in process.run(run)] == [job_id, job_id]


@pytest.mark.parametrize(
    ("behavior", "reason"),
    [("dies running", "was killed by SIGKILL"), ("exits running", "exited with code 4")],
)
async def test_worker_that_dies_in_a_run_is_reported(
    options: Options, behavior: str, reason: str
) -> None:
    async with worker(options(behavior)) as (process, exited):
        await process.ready()
        run = process.run(RUN)
        assert isinstance(await anext(run), Step)
        with pytest.raises(WorkerDied, match=f"^worker {process.pid} {reason}$"):
            await anext(run)
        await exited.wait()


async def test_dead_worker_takes_no_message(options: Options) -> None:
    async with worker(options("obeys")) as (process, exited):
        await process.ready()
        process.kill()
        await exited.wait()

        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            await process.cancel("mine")
        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            await process.preload(LORAS)


async def test_cancel_and_preload_reach_a_worker_in_a_run(options: Options, log: Path) -> None:
    async with worker(options("waits")) as (process, _):
        await process.ready()
        run = process.run(RUN)
        await anext(run)
        await process.preload(LORAS)
        await process.cancel("mine")
        assert await anext(run) == Canceled("mine")

    received = log.read_text().splitlines()
    assert received[1] == f"Preload(loras={LORAS!r})"
    assert received[2] == "Cancel(job_id='mine')"


async def test_message_to_a_worker_that_reads_nothing_does_not_wait_for_it(
    options: Options,
) -> None:
    async with worker(options("reads nothing")) as (process, exited):
        await process.ready()
        # more than the socket holds
        run = process.run(dataclasses.replace(RUN, references=(bytes(4 * 2**20),)))
        event = asyncio.ensure_future(anext(run))
        await asyncio.sleep(0)
        async with asyncio.timeout(PATIENCE_S / 4):
            await process.preload(LORAS)
            await process.cancel("mine")
        process.kill()

        with pytest.raises(WorkerDied, match="was killed by SIGKILL"):
            await event
        await exited.wait()


async def test_killed_worker_that_does_not_end_is_given_up(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_process, "KILL_GRACE_S", 0.05)
    async with worker(options("waits")) as (process, exited):
        await process.ready()
        run = process.run(RUN)
        await anext(run)
        with monkeypatch.context() as held:
            # as a driver holds a process in the kernel
            held.setattr(process._process, "kill", lambda: None)
            process.kill()
            with pytest.raises(WorkerDied):
                await anext(run)
            await exited.wait()


async def test_stop_lets_the_worker_exit_by_itself(options: Options, log: Path) -> None:
    async with worker(options("obeys")) as (process, exited):
        await process.ready()
        await process.stop()
        assert exited.is_set()

    assert log.read_text() == "Stop()\n"


async def test_stop_kills_a_worker_that_does_not_exit(
    options: Options, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_process, "STOP_GRACE_S", 0.05)
    async with worker(options("ignores Stop")) as (process, exited):
        await process.ready()
        await process.stop()

        assert exited.is_set()
        assert not is_alive(process.pid)


@pytest.mark.parametrize("checker", [None, "owner/checker"])
def test_command_line_has_every_option(options: Options, checker: str | None) -> None:
    made = dataclasses.replace(options("cuda:1"), safety_checker=checker, command=WORKER_COMMAND)

    line = made.command_line(7)
    pruned = dataclasses.replace(made, prune_last_block=True).command_line(7)

    assert line[1:4] == ["-m", "pipelines.worker", "--fd=7"]
    assert dict(zip(line[4::2], line[5::2], strict=True)) == {
        "--model": str(made.model),
        "--device": "cuda:1",
        "--dtype": "auto",
        "--offload": "none",
        "--forward": "auto",
        **({"--safety-checker": checker} if checker else {}),
    }
    assert [word for word in pruned if word not in line] == ["--prune-last-block"]
