"""The watch of a process that loads a model, over real processes."""

import asyncio
import subprocess
import sys
from collections.abc import Iterator

import pytest

from server.workers import load_watch

BUSY = "while True: pass"
# threads that wake up and find nothing, as those of a driver do
WAITING = """
import threading, time
def wait():
    while True:
        time.sleep(0.1)
for _ in range(4):
    threading.Thread(target=wait).start()
"""


@pytest.fixture
def program(request: pytest.FixtureRequest) -> Iterator["subprocess.Popen[bytes]"]:
    process = subprocess.Popen([sys.executable, "-c", request.param])
    yield process
    process.kill()
    process.wait()


async def checks(pid: int, number: int) -> bool | None:
    """What the watch says within this many checks, half a second each; None if it goes on."""
    left = number

    async def sleep(seconds: float) -> None:
        nonlocal left
        left -= 1
        await asyncio.sleep(0.5 if left >= 0 else 600)

    watch = load_watch.hangs(pid, silence_s=3 * load_watch.CHECK_S, sleep=sleep)
    try:
        return await asyncio.wait_for(watch, 0.5 * (number + 2))
    except TimeoutError:
        return None


@pytest.mark.parametrize("program", [BUSY], indirect=True)
async def test_process_that_computes_is_left_alone(program: "subprocess.Popen[bytes]") -> None:
    assert await checks(program.pid, 6) is None


@pytest.mark.parametrize("program", [WAITING], indirect=True)
async def test_process_whose_threads_only_wait_hangs(program: "subprocess.Popen[bytes]") -> None:
    # the first checks see the interpreter start
    assert await checks(program.pid, 10) is True


@pytest.mark.parametrize("program", [BUSY], indirect=True)
async def test_process_that_is_gone_does_not_hang(program: "subprocess.Popen[bytes]") -> None:
    program.kill()
    program.wait()

    assert await checks(program.pid, 6) is False
