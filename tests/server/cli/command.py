"""Runs `qwen-edit` as a process of its own."""

import os
import subprocess
import sys


def environment(**variables: str) -> dict[str, str]:
    """The environment of a command: no terminal's width to cut lines at, and these variables."""
    return {**os.environ, "COLUMNS": "200", **variables}


def start(*arguments: str, **variables: str) -> subprocess.Popen[str]:
    """Start `qwen-edit` with these arguments."""
    return subprocess.Popen(
        [sys.executable, "-m", "server.cli", *arguments],
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `qwen-edit` with these arguments to its end."""
    with start(*arguments, **variables) as process:
        stdout, stderr = process.communicate(timeout=60)
    return subprocess.CompletedProcess(arguments, process.returncode, stdout, stderr)
