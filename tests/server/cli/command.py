"""Runs `qwen-edit` as a process of its own."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator

# Much longer than the longest that a command itself waits for something (the doctor, for torch): on
# a busy machine all takes its time, and only a test that fails waits so long.
RUN_TIMEOUT_S = 300


def environment(**variables: str) -> dict[str, str]:
    """The environment of a command: no terminal's width to cut lines at, and these variables."""
    return {**os.environ, "COLUMNS": "200", **variables}


@contextlib.contextmanager
def start(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """`qwen-edit` with these arguments while the block runs; what has not ended then is killed."""
    with subprocess.Popen(
        [sys.executable, "-m", "server.cli", *arguments],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            # else the end of Popen's own block waits for it without limit
            process.kill()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `qwen-edit` with these arguments to its end."""
    with start(*arguments, **variables) as process:
        stdout, stderr = process.communicate(timeout=RUN_TIMEOUT_S)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)
