"""Live servers whose data folder is locked by another program, or read-only."""

import shutil
import sqlite3
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, until

# In a user namespace of its own a process of root has the rights of an ordinary user: those of a
# file's owner, and no right to ignore them.
ORDINARY = ("unshare", "--user", "--")


def ready(server: LiveServer) -> int:
    status: int = server.http.get(f"{server.url}/health/ready").status_code
    return status


def status_of(server: LiveServer, job_id: str) -> str:
    found: str = server.http.get(f"{server.url}/v1/edits/{job_id}").json()["status"]
    return found


@pytest.mark.complete
def test_locked_database_refuses_submits_and_loses_no_job(
    start_server: Callable[..., LiveServer], body: dict[str, Any]
) -> None:
    server = start_server()
    edits = f"{server.url}/v1/edits"
    accepted = server.http.post(edits, json=body | {"num_inference_steps": 20}).json()["id"]
    with sqlite3.connect(server.data_dir / "jobs.sqlite3", isolation_level=None) as other:
        other.execute("BEGIN IMMEDIATE")
        # after the ten seconds for which a write waits
        refused = server.http.post(edits, json=body)
        until(lambda: ready(server) == 503)
        live = server.http.get(f"{server.url}/health/live").status_code
        other.execute("ROLLBACK")
    other.close()

    until(lambda: status_of(server, accepted) == "succeeded")
    until(lambda: ready(server) == 200)
    assert refused.status_code == 507, refused.text
    assert "database is locked. Try again later." in refused.text
    assert live == 200
    assert "Traceback" not in server.log()


@pytest.fixture
def ordinary(tiny_model: Path, tmp_path: Path) -> Iterator[LiveServer]:
    """A server of an ordinary user."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare of util-linux")
    probe = subprocess.run([*ORDINARY, "true"], capture_output=True, text=True, check=False)
    if probe.returncode:
        pytest.skip(f"no user namespace can be made: {probe.stderr.strip()}")
    server = LiveServer(tiny_model, tmp_path, launcher=ORDINARY)
    yield server
    server.close()
    for folder in (server.data_dir, server.data_dir / "inputs"):
        if folder.exists():
            folder.chmod(0o755)


def test_read_only_folder_ends_the_start_with_code_2(ordinary: LiveServer) -> None:
    ordinary.data_dir.mkdir()
    ordinary.data_dir.chmod(0o555)

    with pytest.raises(AssertionError, match="the server ended with 2"):
        ordinary.start()

    assert f"The data folder {ordinary.data_dir} cannot be written" in ordinary.log()
    assert "Traceback" not in ordinary.log()


def test_folder_that_becomes_read_only_refuses_submits_until_it_recovers(
    ordinary: LiveServer, body: dict[str, Any]
) -> None:
    server = ordinary.start()
    edits = f"{server.url}/v1/edits"
    first = server.http.post(f"{edits}?wait=60", json=body).json()
    folders = [server.data_dir, server.data_dir / "inputs"]
    for folder in folders:
        folder.chmod(0o555)

    refused = server.http.post(edits, json=body)
    until(lambda: ready(server) == 503)
    for folder in folders:
        folder.chmod(0o755)
    until(lambda: ready(server) == 200)
    last = server.http.post(f"{edits}?wait=60", json=body).json()

    assert [first["status"], last["status"]] == ["succeeded"] * 2
    assert refused.status_code == 507, refused.text
    assert str(server.data_dir) not in refused.text
    assert "Traceback" not in server.log()
