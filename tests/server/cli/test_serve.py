"""`qwen-edit serve` when it refuses to start."""

from pathlib import Path

import pytest

from tests.live_server import LiveServer
from tests.server.cli.command import run


@pytest.mark.parametrize(
    ("arguments", "environment", "message"),
    [
        (("--host", "0.0.0.0"), {}, "can be reached by others: set QWEN_EDIT_API_KEYS"),
        ((), {"QWEN_EDIT_PROT": "1"}, "Unknown setting QWEN_EDIT_PROT"),
        ((), {"QWEN_EDIT_PORT": "x"}, "QWEN_EDIT_PORT='x'"),
        (("--port", "x"), {}, "Invalid value for '--port'"),
        (("--model", "nothing"), {}, "No model 'nothing'"),
    ],
)
def test_serve_refuses_to_start_with_one_line(
    tmp_path: Path, arguments: tuple[str, ...], environment: dict[str, str], message: str
) -> None:
    done = run("serve", "--data-dir", str(tmp_path), *arguments, **environment)

    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert message in done.stderr
    assert "Traceback" not in done.stderr


def test_serve_reports_a_taken_port(server: LiveServer, tmp_path: Path) -> None:
    port = server.url.rpartition(":")[2]

    done = run("serve", "--data-dir", str(tmp_path), "--port", port)

    assert done.returncode == 2
    assert f"error: 127.0.0.1:{port}: Address already in use" in done.stderr
