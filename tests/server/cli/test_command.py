"""Commands started by the tests of the command line do not outlive them."""

import signal
import socket
from subprocess import TimeoutExpired

import pytest

from server.cli.machine import REPORT_TIMEOUT_S
from tests.server.cli.command import RUN_TIMEOUT_S, start


def test_start_kills_a_command_that_outlives_its_block() -> None:
    """The server accepts the connection and never answers; the client would wait a minute."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with start("jobs", "--server", address) as command, pytest.raises(TimeoutExpired):
            command.communicate(timeout=0.1)

    assert command.returncode == -signal.SIGKILL


def test_run_waits_longer_than_the_command_itself() -> None:
    assert RUN_TIMEOUT_S > REPORT_TIMEOUT_S
