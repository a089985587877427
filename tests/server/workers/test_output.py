"""Output of a worker process as records of the server's log."""

import io
import json
import logging

import pytest

from server.workers.output import MAX_LINE_BYTES, log_output


def test_json_lines_keep_their_level_and_fields_and_others_are_quoted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    record = {
        "time": "2026-11-26T19:00:00.250Z",
        "level": "ERROR",
        "logger": "pipelines.worker",
        "message": "job j1 failed",
        "job": "j1",
        "exception": "Traceback\nValueError: bad",
    }
    stream = io.BytesIO(f"{json.dumps(record)}\nLoading: 50%\r\n\n".encode() + b"\xff\n")

    log_output(stream, 42)

    first, second, third = caplog.records
    assert (first.name, first.levelno) == ("pipelines.worker", logging.ERROR)
    assert first.getMessage() == "worker 42: job j1 failed"
    assert (vars(first)["job"], vars(first)["worker"]) == ("j1", 42)
    assert first.exc_text == "Traceback\nValueError: bad"
    assert first.created == 1795719600.25
    assert (second.levelno, second.getMessage()) == (logging.INFO, "worker 42: Loading: 50%")
    assert third.getMessage() == "worker 42: \ufffd"
    assert stream.closed


def test_endless_line_is_logged_in_parts(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")

    log_output(io.BytesIO(b"x" * (MAX_LINE_BYTES + 1)), 42)

    assert [len(record.getMessage()) for record in caplog.records] == [
        MAX_LINE_BYTES + len("worker 42: "),
        1 + len("worker 42: "),
    ]
