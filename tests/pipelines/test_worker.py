"""The worker process, started and addressed as the server does.

The fake worker of the tests passes them as well.
"""

import dataclasses
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from pipelines.api.messages import (
    Cancel,
    Canceled,
    Done,
    Failed,
    JobEvent,
    LoadFailed,
    LoraFile,
    OutputImage,
    Ready,
    Run,
    Stage,
    Step,
    Stop,
    WorkerUsage,
)
from pipelines.api.params import EditParams
from tests.conftest import TINY_SPEC, encoded, gradient

# Longer than loading torch and a tiny model takes on a busy machine; nothing waits this long.
PATIENCE_S = 120.0
PARAMS = EditParams(prompt="make it blue", seed=5, size=(256, 256))
ENDLESS = dataclasses.replace(PARAMS, num_inference_steps=100, num_outputs=6)
IMAGE = encoded(gradient())


class WorkerUnderTest:
    """The process, and the server's end of its socket."""

    def __init__(self, model: Path, program: str) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self.process = subprocess.Popen(
                [
                    *(sys.executable, "-m", program, f"--fd={theirs.fileno()}"),
                    *("--model", str(model), "--device", "cpu"),
                ],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "OMP_NUM_THREADS": "1"},
            )
        self.connection = Connection(ours.detach())

    def receive(self) -> Any:
        """The next message that is about the model or a job."""
        message = self._receive()
        while isinstance(message, WorkerUsage):
            message = self._receive()
        return message

    def usage(self) -> WorkerUsage:
        """The next message, which is about the worker itself."""
        message = self._receive()
        assert isinstance(message, WorkerUsage)
        return message

    def _receive(self) -> Any:
        assert self.connection.poll(PATIENCE_S), "no message from the worker"
        return self.connection.recv()

    def ending(self, job_id: str) -> list[JobEvent]:
        """All further messages about the job."""
        events: list[JobEvent] = [self.receive()]
        while not isinstance(events[-1], Done | Failed | Canceled):
            events.append(self.receive())
        assert {event.job_id for event in events} == {job_id}
        return events

    def run(self, job_id: str, params: EditParams = PARAMS, *images: bytes) -> list[JobEvent]:
        """Run a job to its end."""
        self.connection.send(Run(job_id, params, images or (IMAGE,)))
        return self.ending(job_id)

    def exit_code(self) -> int:
        """Wait for the process and return its exit code."""
        return self.process.wait(PATIENCE_S)

    def close(self) -> None:
        """End the process if it still runs."""
        self.connection.close()
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module", params=["tests.fake_worker", "pipelines.worker"])
def program(request: pytest.FixtureRequest) -> str:
    """The module that runs as the worker."""
    name: str = request.param
    return name


@pytest.fixture
def start(tiny_model: Path, program: str) -> Iterator[Callable[..., WorkerUnderTest]]:
    """Start a worker for this test alone."""
    with ExitStack() as ending:

        def start_one(model: Path = tiny_model) -> WorkerUnderTest:
            worker = WorkerUnderTest(model, program)
            ending.callback(worker.close)
            return worker

        yield start_one


@pytest.fixture(scope="module")
def loaded(tiny_model: Path, program: str) -> Iterator[tuple[WorkerUnderTest, Ready]]:
    worker = WorkerUnderTest(tiny_model, program)
    ready = worker.receive()
    assert isinstance(ready, Ready)
    yield worker, ready
    worker.close()


@pytest.fixture
def worker(loaded: tuple[WorkerUnderTest, Ready]) -> WorkerUnderTest:
    """A worker shared by the tests that leave it unchanged."""
    return loaded[0]


def test_ready_says_what_is_loaded_and_where(loaded: tuple[WorkerUnderTest, Ready]) -> None:
    _, ready = loaded

    assert ready.model == TINY_SPEC
    assert (ready.device, ready.device_name, ready.dtype) == ("cpu", "CPU", "float32")


def test_ready_carries_the_shapes_of_the_linear_layers(
    loaded: tuple[WorkerUnderTest, Ready],
) -> None:
    _, ready = loaded

    assert ready.linears["transformer_blocks.0.attn.to_q"] == (64, 64)


def test_usage_follows_each_job(worker: WorkerUnderTest) -> None:
    worker.run("used")
    usage = worker.usage()

    assert usage.device == "cpu"
    assert 0 < usage.memory_used_bytes <= usage.memory_peak_bytes < usage.memory_total_bytes
    assert (usage.lora_hits, usage.lora_misses) == (0, 0)


def test_run_sends_steps_then_the_image_then_done(worker: WorkerUnderTest) -> None:
    *steps, image, done = worker.run("steps")

    assert all(isinstance(step, Step) for step in steps)
    assert isinstance(image, OutputImage)
    assert isinstance(done, Done)


def test_steps_count_up_to_the_total(worker: WorkerUnderTest) -> None:
    events = worker.run("count")

    denoised = [
        (event.step, event.total)
        for event in events
        if isinstance(event, Step) and event.stage is Stage.DENOISE
    ]
    assert denoised == [(0, 3), (1, 3), (2, 3), (3, 3)]


def test_image_holds_the_raw_image(worker: WorkerUnderTest) -> None:
    image = worker.run("raw", dataclasses.replace(PARAMS, size=(272, 256)))[-2]

    assert isinstance(image, OutputImage)
    assert (image.width, image.height, len(image.rgb)) == (272, 256, 272 * 256 * 3)
    assert len(set(image.rgb)) > 1


def test_done_says_what_the_model_filled_in(worker: WorkerUnderTest) -> None:
    done = worker.run("filled")[-1]

    assert isinstance(done, Done)
    assert (done.sampling.steps, done.sampling.true_cfg_scale) == (3, 4.0)
    assert set(done.seconds) == {Stage.ENCODE, Stage.DENOISE, Stage.DECODE}


def test_each_output_has_its_own_seed(worker: WorkerUnderTest) -> None:
    events = worker.run("seeds", dataclasses.replace(PARAMS, num_outputs=2))

    images = [event for event in events if isinstance(event, OutputImage)]
    assert [(image.index, image.seed) for image in images] == [(0, 5), (1, 6)]
    assert images[0].rgb != images[1].rgb


def test_cancel_leaves_a_running_job_at_its_next_step(worker: WorkerUnderTest) -> None:
    worker.connection.send(Run("running", ENDLESS, (IMAGE,)))
    assert isinstance(worker.receive(), Step)
    worker.connection.send(Cancel("running"))

    events = worker.ending("running")

    assert events[-1] == Canceled("running")
    assert not any(isinstance(event, OutputImage) for event in events)


def test_cancel_that_comes_before_its_job_skips_it(worker: WorkerUnderTest) -> None:
    worker.connection.send(Cancel("early"))

    assert worker.run("early", ENDLESS) == [Canceled("early")]


def test_cancel_is_forgotten_with_its_job(worker: WorkerUnderTest) -> None:
    worker.connection.send(Cancel("again"))
    worker.run("again")

    assert isinstance(worker.run("again")[-1], Done)


def test_cancel_leaves_other_jobs_alone(worker: WorkerUnderTest) -> None:
    worker.connection.send(Cancel("other"))

    assert isinstance(worker.run("mine")[-1], Done)


@pytest.mark.parametrize(
    ("image", "loras", "code", "message"),
    [
        (b"no image", (), "inference_failed", "The edit failed: UnidentifiedImageError"),
        (
            IMAGE,
            (LoraFile("style.safetensors", "0" * 64, f"/nowhere/{'0' * 64}.safetensors", 1.0),),
            "lora_not_found",
            "The LoRA file style.safetensors is gone.",
        ),
    ],
)
def test_failed_job_crosses_as_code_and_message_and_the_next_one_runs(
    worker: WorkerUnderTest, image: bytes, loras: tuple[LoraFile, ...], code: str, message: str
) -> None:
    worker.connection.send(Run("bad", PARAMS, (image,), loras))
    failed = worker.ending("bad")[-1]

    assert isinstance(failed, Failed)
    assert failed.code == code
    assert message in failed.message
    assert isinstance(worker.run("good")[-1], Done)


def test_alpha_in_a_reference_does_not_fail_the_job(worker: WorkerUnderTest) -> None:
    image = encoded(PIL.Image.new("RGBA", (64, 64), (255, 0, 0, 128)))

    assert isinstance(worker.run("alpha", PARAMS, image)[-1], Done)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_to_the_whole_group_does_not_disturb_a_job(
    worker: WorkerUnderTest, number: signal.Signals
) -> None:
    worker.connection.send(Run("signalled", PARAMS, (IMAGE,)))
    first = worker.receive()
    worker.process.send_signal(number)

    assert isinstance(first, Step)
    assert isinstance(worker.ending("signalled")[-1], Done)


def test_worker_exits_quietly_when_a_message_cannot_be_sent(
    start: Callable[..., WorkerUnderTest], capfd: pytest.CaptureFixture[str]
) -> None:
    """The worker can still read, as when a send meets the end of the socket before the reader."""
    worker = start()
    assert isinstance(worker.receive(), Ready)
    with socket.socket(fileno=os.dup(worker.connection.fileno())) as ours:
        ours.shutdown(socket.SHUT_RD)

    worker.connection.send(Run("unheard", PARAMS, (IMAGE,)))

    assert worker.exit_code() == 0
    assert "Traceback" not in capfd.readouterr().err


def test_worker_ends_with_its_socket_in_the_middle_of_a_job(
    start: Callable[..., WorkerUnderTest],
) -> None:
    worker = start()
    assert isinstance(worker.receive(), Ready)
    worker.connection.send(Run("orphan", ENDLESS, (IMAGE,)))
    assert isinstance(worker.receive(), Step)

    worker.connection.close()

    assert worker.exit_code() == 0


def test_worker_ends_with_its_socket_while_it_loads(
    start: Callable[..., WorkerUnderTest], tmp_path: Path
) -> None:
    # a model that never finishes loading: its first file is a pipe that nobody writes to
    (tmp_path / "endless").mkdir()
    os.mkfifo(tmp_path / "endless" / "model_index.json")
    worker = start(tmp_path / "endless")

    worker.connection.close()

    assert worker.exit_code() == 0


def test_stop_ends_the_worker_after_the_work_before_it(
    start: Callable[..., WorkerUnderTest],
) -> None:
    worker = start()
    worker.connection.send(Run("last", PARAMS, (IMAGE,)))
    worker.connection.send(Stop())

    assert isinstance(worker.receive(), Ready)
    assert isinstance(worker.ending("last")[-1], Done)
    assert worker.exit_code() == 0


def test_broken_model_is_named_and_the_worker_ends(
    start: Callable[..., WorkerUnderTest], tmp_path: Path
) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "QwenImageEditPlusPipeline"}')
    worker = start(tmp_path)

    answer = worker.receive()

    assert isinstance(answer, LoadFailed)
    assert answer.code == "model_unusable"
    assert answer.message.startswith(f"The model {tmp_path.name} cannot be loaded: ")
    assert worker.exit_code() == 0
