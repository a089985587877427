"""The process that owns one device: messages in, images out.

The server starts it as `python -m pipelines.worker` and talks to it over one socket. A thread reads
the socket, so that Cancel arrives while the model computes; only the main thread touches the
model. When the socket closes, the server is gone and the process exits at once.
"""

import argparse
import dataclasses
import io
import logging
import os
import queue
import signal
import socket
import threading
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import PIL.Image

from pipelines.api.errors import DeviceFailed, EngineError, is_device_failure, without_paths
from pipelines.api.log_lines import JsonLines, log_to_stderr
from pipelines.api.messages import (
    Cancel,
    Canceled,
    Done,
    Failed,
    FromWorker,
    LoadFailed,
    LoraFile,
    OutputImage,
    Preload,
    Preview,
    Ready,
    Run,
    Step,
    Stop,
    ToWorker,
)
from pipelines.api.params import LoraRef
from pipelines.parent_process import die_with_parent
from pipelines.worker_arguments import parse_args

if TYPE_CHECKING:
    from pipelines.engine.edit_result import Progress
    from pipelines.engine.pipeline import EditPipeline
    from pipelines.engine.safety import SafetyChecker

logger = logging.getLogger(__name__)

Loaded: TypeAlias = tuple["EditPipeline", "SafetyChecker | None", Ready]


class EditCanceled(Exception):
    """The server cancelled the running job."""


class Inbox:
    """The server's messages: work in order, and the set of cancelled jobs."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._work: queue.SimpleQueue[Run | Stop] = queue.SimpleQueue()
        self._canceled: set[str] = set()
        self._preload: Callable[[Sequence[LoraRef]], None] | None = None

    def start(self) -> None:
        """Start reading in a thread that exits the process when the server is gone."""
        threading.Thread(target=self._read, name="inbox", daemon=True).start()

    def next(self) -> Run | Stop:
        """Wait for the next message to work on."""
        return self._work.get()

    def is_canceled(self, job_id: str) -> bool:
        """Return whether the server has cancelled the job."""
        return job_id in self._canceled

    def preload_with(self, preload: Callable[[Sequence[LoraRef]], None]) -> None:
        """Call `preload`, in the reading thread, with the LoRAs of each Preload."""
        self._preload = preload

    def forget(self, job_id: str) -> None:
        """Drop a late cancel, so that the same job can run again."""
        self._canceled.discard(job_id)

    def _read(self) -> None:
        while True:
            try:
                message: ToWorker = self._connection.recv()
            except (EOFError, OSError):
                # A worker without its server would block the device; there is nothing to save.
                os._exit(0)
            if isinstance(message, Cancel):
                self._canceled.add(message.job_id)
            elif isinstance(message, Preload):
                if self._preload is not None:
                    self._preload(_lora_refs(message.loras))
            else:
                self._work.put(message)


class Worker:
    """Serves one model, one job at a time."""

    def __init__(
        self,
        connection: Connection,
        inbox: Inbox,
        pipeline: "EditPipeline",
        safety: "SafetyChecker | None",
    ) -> None:
        self._connection = connection
        self._inbox = inbox
        self._pipeline = pipeline
        self._safety = safety

    def serve(self) -> None:
        """Run jobs until Stop arrives."""
        self._send(self._pipeline.usage())
        while not isinstance(message := self._inbox.next(), Stop):
            self._run(message)
            self._send(self._pipeline.usage())

    def _run(self, run: Run) -> None:
        try:
            self._edit(run)
        except EditCanceled:
            self._send(Canceled(run.job_id))
        except Exception as exc:
            self._fail(run, exc)
        finally:
            self._inbox.forget(run.job_id)

    def _fail(self, run: Run, exc: Exception) -> None:
        """Report the failure of a job; exit if this process can run no other."""
        if is_device_failure(exc):
            logger.critical(
                "job %s: the device failed", run.job_id, exc_info=exc, extra={"job": run.job_id}
            )
            # torch adds lines of advice for programmers
            reason = (str(exc).splitlines() or [repr(exc)])[0]
            message = without_paths(f"The device failed, and its worker is replaced: {reason}")
            self._send(Failed(run.job_id, DeviceFailed.code, message, is_fatal=True))
            logging.shutdown()
            # Torch's own teardown may hang on a broken device.
            os._exit(1)
        if isinstance(exc, EngineError):
            self._send(Failed(run.job_id, exc.code, _in_clients_words(str(exc), run.loras)))
            return
        # The border of the process: report it to the server; the next job may be fine.
        logger.error("job %s failed", run.job_id, exc_info=exc, extra={"job": run.job_id})
        message = without_paths(f"The edit failed: {exc!r}")
        self._send(Failed(run.job_id, EngineError.code, message))

    def _edit(self, run: Run) -> None:
        def report(progress: "Progress") -> None:
            if self._inbox.is_canceled(run.job_id):
                raise EditCanceled
            self._send(Step(run.job_id, progress.stage, progress.step, progress.total))

        def show(index: int, image: PIL.Image.Image) -> None:
            self._send(Preview(run.job_id, index, *image.size, _rgb_bytes(image)))

        params = dataclasses.replace(run.params, loras=_lora_refs(run.loras))
        references = [_open_rgb(data) for data in run.references]
        profiles = [file.profile for file in run.loras if file.profile and file.scale]
        result = self._pipeline.edit(params, references, report, show, profiles)
        assert result.sampling is not None, "an output was denoised"
        for index, image in enumerate(result.images):
            seed, rgb = run.params.seed + index, _rgb_bytes(image)
            is_unsafe = self._safety is not None and self._safety.is_unsafe(image)
            self._send(OutputImage(run.job_id, index, seed, *image.size, rgb, is_unsafe))
        self._send(
            Done(
                run.job_id,
                result.seconds,
                result.sampling,
                result.prompt,
                result.is_extended,
                _warnings(run.loras, result.warnings),
            )
        )

    def _send(self, message: FromWorker) -> None:
        try:
            self._connection.send(message)
        except OSError:
            os._exit(0)  # the server is gone, and the inbox has not noticed yet


def main(load: Callable[[argparse.Namespace], Loaded]) -> None:
    """Load the model named on the command line, send Ready and serve."""
    die_with_parent()
    args = parse_args()
    # Ctrl-C and service managers signal a whole group; the server decides when workers end.
    for signal_number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(signal_number, signal.SIG_IGN)
    # the server reads the lines and writes them in its own format
    log_to_stderr(JsonLines())
    connection = Connection(socket.socket(fileno=args.fd).detach())
    # Before torch is imported, which takes seconds: the server may be gone by then.
    inbox = Inbox(connection)
    inbox.start()
    try:
        pipeline, safety, ready = load(args)
    except EngineError as exc:
        connection.send(LoadFailed(exc.code, str(exc)))
        return
    except Exception as exc:
        logger.exception("the model could not be loaded")
        message = without_paths(f"The model could not be loaded: {exc!r}")
        connection.send(LoadFailed("model_unusable", message))
        return
    inbox.preload_with(pipeline.preload)
    connection.send(ready)
    Worker(connection, inbox, pipeline, safety).serve()
    logging.shutdown()
    # Torch's own teardown takes seconds, and there is nothing to save.
    os._exit(0)


def _load(args: argparse.Namespace) -> Loaded:
    # Imported here, in the one process that needs them, behind the inbox thread.
    import torch
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    from pipelines.api.load_options import ForwardName, Offload
    from pipelines.engine.pipeline import EditPipeline
    from pipelines.engine.safety import SafetyChecker

    diffusers_logging.set_verbosity_error()
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    name = args.device
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    device = torch.device(name)
    best = "bfloat16" if device.type == "cuda" else "float32"
    dtype = getattr(torch, best if args.dtype == "auto" else args.dtype)
    pipeline = EditPipeline.load(
        args.model,
        device=device,
        dtype=dtype,
        offload=Offload(args.offload),
        strict_loras=args.strict_loras,
        forward=ForwardName(args.forward),
        prune_last_block=args.prune_last_block,
    )
    device_name = torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU"
    safety = SafetyChecker(args.safety_checker, device) if args.safety_checker else None
    ready = Ready(
        pipeline.spec,
        str(device),
        device_name,
        str(pipeline.dtype).removeprefix("torch."),
        can_extend_prompts=pipeline.spec.can_write,
        checks_safety=safety is not None,
        forward=pipeline.forward.name,
        forward_reason=pipeline.forward.reason,
        linears=pipeline.linears,
    )
    return pipeline, safety, ready


def _lora_refs(files: Sequence[LoraFile]) -> tuple[LoraRef, ...]:
    """The LoRAs as the engine takes them: local paths with their scales."""
    return tuple(LoraRef(file.path, file.scale, multiplier=file.multiplier) for file in files)


def _warnings(files: Sequence[LoraFile], engine: Sequence[str]) -> tuple[str, ...]:
    """What the server and the engine say about the files that are applied."""
    found = [warning for file in files if file.scale for warning in file.warnings]
    return (*found, *(_in_clients_words(warning, files) for warning in engine))


def _in_clients_words(message: str, files: Sequence[LoraFile]) -> str:
    """The engine's message with the client's names in place of the names of the files."""
    for file in files:
        message = message.replace(Path(file.path).name, file.name)
    return message


def _rgb_bytes(image: PIL.Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


def _open_rgb(data: bytes) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(data)).convert("RGB")


if __name__ == "__main__":
    main(_load)
