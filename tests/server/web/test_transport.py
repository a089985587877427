"""https, CORS, host names and latency of live servers."""

import http.client
import os
import re
import signal
import ssl
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import trustme

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer


@pytest.fixture
def authority(tmp_path: Path) -> tuple[ssl.SSLContext, Path, dict[str, Path]]:
    """Create a certificate authority: a context that trusts it, its file, and server settings."""
    made = trustme.CA()
    context = ssl.create_default_context()
    made.configure_trust(context)
    root = tmp_path / "root.pem"
    made.cert_pem.write_to_path(str(root))
    issued = made.issue_cert("127.0.0.1", "localhost")
    cert, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    for blob in issued.cert_chain_pems:
        blob.write_to_path(str(cert), append=True)
    issued.private_key_pem.write_to_path(str(key))
    return context, root, {"TLS_CERT": cert, "TLS_KEY": key}


FAL_SCRIPT = """
import sys, fal_client
result = fal_client.subscribe("fal-ai/qwen-image-edit-plus", {"prompt": "a",
    "image_urls": ["data:image/png;base64," + sys.argv[1]], "seed": 1})
print(result["images"][0]["url"])
"""


def test_fal_client_reaches_the_server_over_https_by_its_own_variables(
    tiny_model: Path, tmp_path: Path, authority: tuple[ssl.SSLContext, Path, dict[str, Path]]
) -> None:
    """fal's Python client supports https only; an environment variable sets its host."""
    context, root, settings = authority
    server = LiveServer(tiny_model, tmp_path, verify=context, **settings)
    try:
        server.start()
        host = server.url.removeprefix("https://")
        done = subprocess.run(
            [sys.executable, "-c", FAL_SCRIPT, as_base64(encoded(gradient()))],
            env={
                **os.environ,
                "FAL_KEY": "any",
                "FAL_QUEUE_RUN_HOST": f"{host}/v1/queue",
                "FAL_RUN_HOST": host,
                "SSL_CERT_FILE": str(root),
            },
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
    finally:
        server.close()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"https://{host}/outputs/")


def test_cors_allows_only_the_configured_origins(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(CORS_ORIGINS="https://a.example, https://b.example", wait_ready=False)

    def preflight(origin: str) -> str | None:
        headers = {
            "Origin": origin,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,content-type",
        }
        answer = server.http.options(f"{server.url}/v1/edits", headers=headers)
        return answer.headers.get("access-control-allow-origin")

    assert preflight("https://b.example") == "https://b.example"
    assert preflight("https://c.example") is None


def test_cors_allows_no_origin_by_default(server: LiveServer) -> None:
    answer = server.http.get(f"{server.url}/health", headers={"Origin": "https://a.example"})
    assert "access-control-allow-origin" not in answer.headers


def test_small_answers_do_not_wait_for_an_acknowledgement(server: LiveServer) -> None:
    """With Nagle's algorithm, nearly every response on a kept connection is delayed by 40 ms.

    Some may be late for other reasons on a busy machine.
    """
    connection = http.client.HTTPConnection(server.url.removeprefix("http://"))
    seconds = []
    for _ in range(100):
        start = time.monotonic()
        connection.request("GET", "/health")
        assert connection.getresponse().read().startswith(b'{"status"')
        seconds.append(time.monotonic() - start)
    connection.close()
    assert statistics.median(seconds) < 0.04


def test_server_survives_a_client_that_disconnects(server: LiveServer) -> None:
    """A closed pipe ends other commands, but must not end the server."""
    status = Path(f"/proc/{server.process.pid}/status").read_text()
    ignored = int(re.search(r"SigIgn:\s*([0-9a-f]+)", status)[1], 16)  # type: ignore[index]

    assert ignored & 1 << signal.SIGPIPE - 1


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost:8000", 200),
        ("qwen.localhost", 200),
        ("192.168.1.7:8000", 200),
        ("[::1]:8000", 200),
        ("evil.example:8000", 403),
        ("127.0.0.1.evil.example", 403),
        ("[", 403),
    ],
)
def test_server_without_keys_rejects_unknown_host_names(
    server: LiveServer, host: str, status: int
) -> None:
    for path in ("/health", "/v1/edits"):
        answer = server.http.get(server.url + path, headers={"Host": host})

        assert answer.status_code == status, path
        if status == 403:
            assert "QWEN_EDIT_PUBLIC_URL" in answer.json()["error"]["message"]


def test_server_accepts_its_public_name_and_any_name_with_keys(
    tiny_model: Path, tmp_path: Path
) -> None:
    for number, (settings, host) in enumerate(
        (
            ({"PUBLIC_URL": "https://images.example/edit"}, "images.example"),
            ({"API_KEYS": "right-key-for-tests"}, "any.example"),
        )
    ):
        server = LiveServer(tiny_model, tmp_path / str(number), **settings)
        try:
            server.start(wait_ready=False)
            answer = server.http.get(f"{server.url}/health", headers={"Host": host})
        finally:
            server.close()
        assert answer.status_code == 200, host
