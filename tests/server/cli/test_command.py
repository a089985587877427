"""What the tests of the command line start does not outlive them."""

import signal
import socket
from subprocess import TimeoutExpired

import pytest

from server.cli.machine import REPORT_TIMEOUT_S
from tests.server.cli.command import RUN_TIMEOUT_S, start


def test_command_that_hangs_is_killed_at_the_end_of_its_block() -> None:
    """Its server takes the connection and never answers; the client itself would wait a minute."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with start("jobs", "--server", address) as command, pytest.raises(TimeoutExpired):
            command.communicate(timeout=0.1)

    assert command.returncode == -signal.SIGKILL


def test_command_may_take_as_long_as_what_it_waits_for_itself() -> None:
    assert RUN_TIMEOUT_S > REPORT_TIMEOUT_S
