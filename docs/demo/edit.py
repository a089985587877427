"""One edit from start to finish: start a server, edit an image with it, stop it.

The provider's own SDK edits through the WaveSpeed contract, in a thread, while the native contract
reports the progress of the job.
"""

import argparse
import base64
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import httpx2
import wavespeed  # type: ignore[import-untyped]
from rich.console import Console

from server.cli.contact_sheet import Caption, draw_comparison, open_image

INPUT = Path(__file__).with_name("input.png")
ENDPOINT = "wavespeed-ai/qwen-image/edit-plus-lora"
PROMPT = "Make the circle green"
SEED = 7
POLL_S = 0.1
LISTEN_TIMEOUT_S = 60.0
STOP_TIMEOUT_S = 20.0
LOG_TAIL_LINES = 30
# Settings from the environment that would lock the demo out of its own server.
LEFT_OUT = ("QWEN_EDIT_API_KEYS", "QWEN_EDIT_API_KEYS_FILE", "QWEN_EDIT_PUBLIC_URL")

console = Console(highlight=False, soft_wrap=True)


class DemoFailed(Exception):
    """The demo cannot continue, for the reason in the message."""


class Terminated(Exception):
    """A signal asked the demo to end."""


def main() -> int:
    """Run the demo and return its exit code."""
    args = parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, terminate)
    # a proxy from the environment could not reach this machine
    os.environ["NO_PROXY"] = os.environ["no_proxy"] = "127.0.0.1"
    with tempfile.TemporaryDirectory(prefix="qwen-edit-demo-") as folder:
        log = Path(folder) / "server.log"
        try:
            with server(Path(folder), log, args.model) as process:
                run(process, log, args.output)
        except KeyboardInterrupt:
            return give_up("interrupted", log, 130)
        except Terminated:
            return give_up("terminated", log, 143)
        except (DemoFailed, httpx2.HTTPError, OSError) as exc:
            return give_up(str(exc), log, 1)
    return 0


def parse_args() -> argparse.Namespace:
    """Parse the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--model", default="demo", help="name, directory or cached hub id [demo]")
    parser.add_argument("--output", type=Path, default=Path("demo-output/edited.png"))
    return parser.parse_args()


def run(process: subprocess.Popen[bytes], log: Path, output: Path) -> None:
    """Edit the image on the server that has just started."""
    url = wait_for_address(process, log)
    console.print(f"The server listens on [bold]{url}[/bold] and loads the model.")
    with httpx2.Client(base_url=url, timeout=30, trust_env=False) as client:
        wait_until_ready(client, process)
        show_model(client.get("/v1/capabilities").raise_for_status().json())
        console.print(f"Sending {shown(INPUT)} with the prompt “{PROMPT}”, through the SDK.")
        answer = in_thread(lambda: edit_with_sdk(url))
        job = follow(client, find_job(client, answer))
        output_url = outputs_of(answer)[0]
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_bytes(client.get(output_url).raise_for_status().content)
    show_result(output, job)
    show_comparison(output)


@contextmanager
def server(folder: Path, log: Path, model: str) -> Iterator[subprocess.Popen[bytes]]:
    """A server with its own data folder on a free port, stopped after the block."""
    command = [str(Path(sys.executable).with_name("qwen-edit")), "serve", "--model", model]
    command += ["--host", "127.0.0.1", "--port", "0", "--data-dir", str(folder / "data")]
    environment = {name: value for name, value in os.environ.items() if name not in LEFT_OUT}
    console.print("Starting the server.")
    with log.open("wb") as file:
        process = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        yield process
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """Stop the server and with it the worker. A second Ctrl-C does not interrupt this."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    process.terminate()
    try:
        process.wait(STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Wait for the server's URL in its log. Raises DemoFailed."""
    deadline = time.monotonic() + LISTEN_TIMEOUT_S
    while time.monotonic() < deadline:
        if match := re.search(r"listens on (http://\S+)", log.read_text()):
            return match[1]
        check_alive(process)
        time.sleep(POLL_S)
    raise DemoFailed(f"the server did not listen within {LISTEN_TIMEOUT_S:g} seconds")


def wait_until_ready(client: httpx2.Client, process: subprocess.Popen[bytes]) -> None:
    """Wait until the model is loaded, which takes minutes for a large one. Raises DemoFailed."""
    while True:
        health: dict[str, Any] = client.get("/health").raise_for_status().json()
        if health["status"] == "ready":
            return
        if health["status"] == "failed":
            raise DemoFailed(f"the model could not be loaded: {health['error']}")
        check_alive(process)
        time.sleep(POLL_S)


def check_alive(process: subprocess.Popen[bytes]) -> None:
    """Raise DemoFailed when the server has ended."""
    if process.poll() is not None:
        raise DemoFailed(f"the server ended with code {process.returncode}")


def edit_with_sdk(url: str) -> dict[str, Any]:
    """Edit the image as a user of the provider's SDK would; only `base_url` differs."""
    image = base64.b64encode(INPUT.read_bytes()).decode("ascii")
    client = wavespeed.Client(api_key="local", base_url=url)
    answer: dict[str, Any] = client.run(
        ENDPOINT,
        {
            "prompt": PROMPT,
            "images": [f"data:image/png;base64,{image}"],
            "seed": SEED,
            "output_format": "png",
        },
    )
    return answer


def in_thread(work: Callable[[], dict[str, Any]]) -> Future[dict[str, Any]]:
    """Run `work` in a daemon thread, which does not delay an early exit."""
    future: Future[dict[str, Any]] = Future()

    def settle() -> None:
        try:
            future.set_result(work())
        except Exception as exc:
            future.set_exception(exc)

    threading.Thread(target=settle, daemon=True).start()
    return future


def find_job(client: httpx2.Client, answer: Future[dict[str, Any]]) -> str:
    """Wait for the id of the job that the SDK submits, the server's only one."""
    while True:
        page = client.get("/v1/edits", params={"limit": 1}).raise_for_status().json()
        if page["items"]:
            return str(page["items"][0]["id"])
        if answer.done():
            outputs_of(answer)
        time.sleep(POLL_S)


def follow(client: httpx2.Client, job_id: str) -> dict[str, Any]:
    """Print each change of the job and return it in its final state."""
    start = time.monotonic()
    job: dict[str, Any] = {}
    message = ""
    with client.sse(f"/v1/edits/{job_id}/events", timeout=None) as events:
        for event in events:
            job = json.loads(event.data)
            words = progress_of(job)
            if words != message:
                console.print(f"  {time.monotonic() - start:6.1f} s  {words}")
                message = words
    return job


def progress_of(job: dict[str, Any]) -> str:
    """The job's state in a few words."""
    if job["status"] != "running":
        return str(job["status"])
    words = str(job["stage"] or "running")
    if job["stage"] == "denoise":
        words += f"  step {job['step']} of {job['steps']}"
    return words


def outputs_of(answer: Future[dict[str, Any]]) -> list[str]:
    """The URLs that the SDK returned. Raises DemoFailed for an error of the SDK."""
    try:
        outputs: list[str] = answer.result()["outputs"]
    except Exception as exc:
        raise DemoFailed(f"the SDK raised {type(exc).__name__}: {exc}") from exc
    return outputs


def show_model(capabilities: dict[str, Any]) -> None:
    """Print which model answers, with a note when it is the demo model."""
    model = capabilities["model"]
    where = f"{model['device_name']}, {model['dtype']}"
    console.print(f"Model: {model['name']} on {where}", style="bold", markup=False)
    if model["warning"]:
        console.print(f"NOTE: {model['warning']}", style="bold yellow", markup=False)


def show_result(output: Path, job: dict[str, Any]) -> None:
    """Print the path of the image and the seconds of each stage."""
    result = job["outputs"][0]
    size = f"{result['width']}×{result['height']}, seed {result['seed']}"
    console.print(f"The edited image: {output.resolve()}", style="bold green", markup=False)
    console.print(f"  {size}; the seconds of each stage:")
    for stage, seconds in job["seconds"].items():
        console.print(f"  {stage:<8} {seconds:8.3f}")


def show_comparison(output: Path) -> None:
    """Put the image before and after on one sheet."""
    sheet = output.with_name("before-after.png")
    caption = Caption(PROMPT, (("seed", str(SEED)), ("endpoint", ENDPOINT)))
    draw_comparison([open_image(INPUT)], open_image(output), caption).save(sheet)
    console.print(f"Before and after: {sheet.resolve()}", style="bold green", markup=False)


def give_up(reason: str, log: Path, code: int) -> int:
    """Print the reason and the end of the server's log, and return the exit code."""
    console.print(f"The demo stopped: {reason}", style="red", markup=False)
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    if lines:
        console.print("The end of the server's log:")
        console.print("\n".join(lines[-LOG_TAIL_LINES:]), markup=False)
    return code


def shown(path: Path) -> str:
    """The path relative to the working directory."""
    return os.path.relpath(path)


def terminate(number: int, frame: FrameType | None) -> NoReturn:
    """Turn the signal into an exception, so that the server is stopped too."""
    raise Terminated


if __name__ == "__main__":
    sys.exit(main())
