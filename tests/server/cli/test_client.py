"""The client of the native contract: LoRA references and error messages."""

from collections.abc import Callable
from pathlib import Path

import pytest

from server.cli.client import Client, parse_lora
from server.cli.errors import ClientError
from tests.live_server import LiveServer
from tests.server.cli.command import QwenEdit

KEY = "a-key-for-the-tests"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a", ("a", 1.0)),
        ("a:0.5", ("a", 0.5)),
        ("a.safetensors:2", ("a.safetensors", 2.0)),
        ("https://h:8000/a", ("https://h:8000/a", 1.0)),
        ("https://h:8000/a:1.25", ("https://h:8000/a", 1.25)),
        ("https://h:8000", ("https://h", 8000.0)),
        ("https://h:8000/a:.5", ("https://h:8000/a", 0.5)),
        ("a:-1", ("a", -1.0)),
        ("a:.5", ("a", 0.5)),
        ("a:1.", ("a", 1.0)),
        ("a:+1e-1", ("a", 0.1)),
        ("C:/loras/a:5E-1", ("C:/loras/a", 0.5)),
        (r"C:\loras\.5", (r"C:\loras\.5", 1.0)),
        ("a:b", ("a:b", 1.0)),
        ("a:.", ("a:.", 1.0)),
        ("a:nan", ("a:nan", 1.0)),
        ("a:1e999", ("a:1e999", 1.0)),
    ],
)
def test_parse_lora_splits_at_the_last_colon_when_a_finite_number_follows(
    text: str, expected: tuple[str, float]
) -> None:
    assert parse_lora(text) == expected


def test_command_names_the_key_option_when_the_server_requires_a_key(
    start_server: Callable[..., LiveServer], qwen_edit: QwenEdit
) -> None:
    server = start_server(API_KEYS=KEY, wait_ready=False)

    without = qwen_edit("jobs", "--server", server.url)
    wrong = qwen_edit("jobs", "--server", server.url, "--key", "another")
    right = qwen_edit("jobs", "--server", server.url, "--key", KEY)

    assert (without.returncode, wrong.returncode, right.returncode) == (1, 1, 0)
    assert f"error: {server.url} requires an API key: pass one with --key or " in without.stderr
    assert f"error: {server.url} does not accept this API key: pass one with" in wrong.stderr
    assert "QWEN_EDIT_KEY" in without.stderr


def test_command_says_how_to_start_a_server_when_none_answers(qwen_edit: QwenEdit) -> None:
    done = qwen_edit("jobs", "--server", "http://127.0.0.1:9")

    assert done.returncode == 1
    assert "error: no server at http://127.0.0.1:9 (" in done.stderr
    assert "Start one with `qwen-edit serve`, or name another with --server." in done.stderr


@pytest.mark.parametrize("address", ["http://[::1", "localhost:8000", "http://"])
def test_command_refuses_an_address_that_is_none(qwen_edit: QwenEdit, address: str) -> None:
    done = qwen_edit("jobs", "--server", address)

    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no server at {address.rstrip('/')} (")


def test_command_refuses_a_server_of_another_kind(
    file_host: tuple[str, Path], qwen_edit: QwenEdit
) -> None:
    address, folder = file_host
    (folder / "v1").mkdir()
    (folder / "v1" / "edits").write_text("<html>")

    other = qwen_edit("jobs", "--server", address)
    missing = qwen_edit("loras", "--server", address)

    assert other.returncode == 1
    assert f"{address} does not answer like a qwen-edit server" in other.stderr
    assert missing.returncode == 1
    assert "error: the server answered 404: " in missing.stderr


def test_follow_reports_the_servers_message_when_the_job_is_gone(server: LiveServer) -> None:
    with Client(server.url, None) as client, pytest.raises(ClientError, match="no-such-job"):
        list(client.follow("no-such-job"))
