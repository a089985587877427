"""The log of a live server in each format."""

import json
import re
import socket
import subprocess
import sys
from collections.abc import Callable
from datetime import datetime
from typing import Any

from tests.fake_worker import DEVICE_FAILURE
from tests.live_server import LiveServer, until


def records(server: LiveServer) -> list[dict[str, Any]]:
    """Return every line of the log, each of which must be an object."""
    return [json.loads(line) for line in server.log().splitlines()]


def test_json_log_has_one_object_per_line_from_start_to_end(
    start_server: Callable[..., LiveServer], body: dict[str, Any]
) -> None:
    server = start_server(LOG_FORMAT="json")
    job = server.http.post(f"{server.url}/v1/edits?wait=60", json=body).json()["id"]
    failing = server.http.post(
        f"{server.url}/v1/edits?wait=60", json=body | {"prompt": DEVICE_FAILURE}
    ).json()["id"]
    with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
        client.sendall(b"nonsense\r\n\r\n")
        client.recv(1000)
    server.stop()

    found = records(server)
    assert "Invalid HTTP request received." in {each["message"] for each in found}
    for record in found:
        assert {"time", "level", "logger", "message"} <= record.keys()
        assert datetime.fromisoformat(record["time"]).utcoffset() is not None
    lives = [each for each in found if each.get("job") == job]
    assert [(each["status"], each.get("stage")) for each in lives] == [
        ("queued", None),
        ("queued", None),
        ("running", None),
        ("running", "encode"),
        ("running", "denoise"),
        ("running", "decode"),
        ("succeeded", "decode"),
    ]
    assert all(each["seconds"] >= 0 for each in lives[1:])
    (failure,) = [each for each in found if each.get("job") == failing and "exception" in each]
    assert failure["logger"].endswith("worker")
    assert failure["level"] == "CRITICAL"
    assert failure["worker"] > 0
    assert "RuntimeError: CUDA error" in failure["exception"]


def test_text_log_names_job_owner_stage_and_seconds(
    server: LiveServer, body: dict[str, Any]
) -> None:
    job = server.http.post(f"{server.url}/v1/edits?wait=60", json=body).json()["id"]
    until(lambda: f"job {job} succeeded" in server.log())

    lines = [line for line in server.log().splitlines() if job in line]
    assert [line.split(job)[1].split()[0] for line in lines] == [
        "queued", "prepared", "started", "reached", "reached", "reached", "succeeded",
    ]  # fmt: skip
    assert " INFO " in lines[0]
    assert re.search(r" after [0-9]+\.[0-9]{2} s, 3 steps, CFG 4$", lines[-1])


def test_uncaught_exception_is_a_record() -> None:
    code = (
        "from server.log import *; start_logging(LogFormat.JSON); import warnings; "
        "warnings.warn('careful'); raise ValueError('bad\\nluck')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)

    warning, failure = (json.loads(line) for line in done.stderr.splitlines())
    assert done.returncode == 1
    assert (warning["level"], warning["logger"]) == ("WARNING", "py.warnings")
    assert failure["level"] == "CRITICAL"
    assert failure["exception"].endswith("ValueError: bad\nluck")
