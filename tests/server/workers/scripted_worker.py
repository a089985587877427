"""A worker that does as its `--device` says: obeys, or fails in one of the ways that workers do.

Every message that it receives is appended to the file that `--model` names.
"""

import argparse
import dataclasses
import os
import signal
import socket
from multiprocessing.connection import Connection
from pathlib import Path

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.messages import (
    Cancel,
    Canceled,
    Done,
    Failed,
    LoadFailed,
    Ready,
    Run,
    Stage,
    Step,
    Stop,
    WorkerUsage,
)
from pipelines.api.profiles import UsedSampling

SPEC = dataclasses.replace(QWEN_IMAGE_EDIT_PLUS.spec, name="scripted")
SAMPLING = UsedSampling({}, 3, 4.0, None, None, (1.0, 0.6, 0.3))
READY = Ready(SPEC, "cpu", "CPU", "float32", False, False, "stock", "scripted", {})


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fd", type=int, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--device", required=True)
    args, _ = parser.parse_known_args()
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    connection = Connection(socket.socket(fileno=args.fd).detach())
    match args.device:
        case "dies loading":
            os._exit(3)
        case "dies loading once" | "broken once" if args.model.exists():
            pass
        case "dies loading once":
            args.model.touch()
            os._exit(3)
        case "broken once":
            args.model.touch()
            connection.send(LoadFailed("model_unusable", "The device has too little memory."))
            # until it is killed: a real worker takes seconds to exit
            signal.pause()
        case "broken model":
            connection.send(LoadFailed("model_unusable", "The model is broken."))
            return
        case "loads for ever":
            signal.pause()
    connection.send(READY)
    connection.send(usage(jobs=0))
    if args.device == "reads nothing":
        signal.pause()
    serve(connection, args.device, args.model)


def serve(connection: Connection, device: str, log: Path) -> None:
    while True:
        try:
            message = connection.recv()
        except EOFError:
            return
        with log.open("a") as file:
            file.write(f"{message!r}\n")
        match message:
            case Stop() if device != "ignores Stop":
                return
            case Run(job_id=job_id):
                run(connection, device, job_id)
            case Cancel(job_id=job_id):
                connection.send(Canceled(job_id))


def usage(*, jobs: int) -> WorkerUsage:
    """Each job finds two LoRAs in memory and reads one."""
    return WorkerUsage("cuda:0", 30, 40, 90, 2 * jobs, jobs, lora_host_bytes=7, lora_device_bytes=8)


def run(connection: Connection, device: str, job_id: str) -> None:
    connection.send(Step("another job", Stage.ENCODE, 0, 1))
    connection.send(Step(job_id, Stage.DENOISE, 1, 3))
    if device == "dies running":
        os.kill(os.getpid(), signal.SIGKILL)
    if device == "exits running":
        os._exit(4)
    if device == "device fails":
        connection.send(Failed(job_id, "device_failed", "CUDA error", is_fatal=True))
    elif device != "waits":
        connection.send(usage(jobs=1))
        connection.send(Done(job_id, {}, SAMPLING, "a", is_extended=False))


if __name__ == "__main__":
    main()
