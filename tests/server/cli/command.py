"""The command `qwen-edit` as a process, or inside the tests' own."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator

# Much longer than any command itself waits (the doctor, for torch): only a test that fails on a
# busy machine waits so long.
RUN_TIMEOUT_S = 300

# Runs a command in this process and returns its exit code and output.
QwenEdit = Callable[..., subprocess.CompletedProcess[str]]


def environment(**variables: str) -> dict[str, str]:
    """The environment of a command: wide output, and these variables."""
    return {**os.environ, "COLUMNS": "200", **variables}


@contextlib.contextmanager
def start(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """Run `qwen-edit` in a process that is killed if it outlives the block."""
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
            # or the end of Popen's own block would wait for it without limit
            process.kill()


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `qwen-edit` in a process to its end."""
    with start(*arguments, **variables) as process:
        stdout, stderr = process.communicate(timeout=RUN_TIMEOUT_S)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)
