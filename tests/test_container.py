"""The container: its pins, its files and its health check."""

import http.server
import json
import re
import runpy
import ssl
import threading
import tomllib
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

import pytest
import trustme
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
DEVELOPERS = "# Developers' tools"
HEALTHCHECK = ROOT / "deploy" / "healthcheck.py"


def pins(text: str) -> set[str]:
    lines = [line.partition("#")[0].strip() for line in text.splitlines()]
    return {canonicalize_name(line.partition("==")[0]) for line in lines if line}


def needed() -> set[str]:
    """Return each package that the server and its page need in this environment."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = [*project["dependencies"], *project["optional-dependencies"]["page"]]
    found: set[tuple[str, str]] = set()
    while todo:
        requirement = Requirement(todo.pop())
        for extra in ("", *requirement.extras):
            key = canonicalize_name(requirement.name), extra
            if key not in found and applies(requirement, extra):
                found.add(key)
                todo += wanted_by(requirement.name, extra)
    return {name for name, _ in found}


def wanted_by(name: str, extra: str) -> Iterator[str]:
    try:
        lines = requires(name) or ()
    except PackageNotFoundError:  # for another platform
        return
    yield from (line for line in lines if applies(Requirement(line), extra))


def applies(requirement: Requirement, extra: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate({"extra": extra})


def test_container_pins_cover_the_server_without_developer_tools() -> None:
    runtime, _, developers = (ROOT / "constraints.txt").read_text().partition(DEVELOPERS)

    assert needed() - pins(runtime) == set()
    assert needed() & pins(developers) == set()
    # The CUDA build of torch needs packages that the build on this machine may not.
    cuda = {name for name in pins(runtime) if name.startswith(("cuda-", "nvidia-", "triton"))}
    assert pins(runtime) - needed() - cuda == set()


def test_container_truncates_the_pins_at_the_developer_tools() -> None:
    assert f"/^{DEVELOPERS}/," in (ROOT / "Dockerfile.cuda").read_text()


def test_dockerignore_admits_every_file_that_the_container_copies() -> None:
    copied = re.findall(r"^COPY (?!--from)(.+) \S+$", (ROOT / "Dockerfile.cuda").read_text(), re.M)
    let_in = {
        line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line[0] == "!"
    }

    assert copied
    assert {name for line in copied for name in line.split()} - let_in == set()


class HealthHandler(http.server.BaseHTTPRequestHandler):
    """Answers every request with the `status` of its server."""

    server: "HealthServer"

    def do_GET(self) -> None:
        body = json.dumps({"status": self.server.status}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


class HealthServer(http.server.ThreadingHTTPServer):
    def __init__(self, status: str, certificate: trustme.LeafCert | None) -> None:
        super().__init__(("127.0.0.1", 0), HealthHandler)
        self.status = status
        if certificate is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            certificate.configure_cert(context)
            self.socket = context.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Print nothing when the health check tries http against TLS."""


@pytest.fixture
def answer_health(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Return a function that starts a server with `/health` and points the check at it."""
    servers: list[HealthServer] = []

    def start(status: str, certificate: trustme.LeafCert | None = None) -> None:
        servers.append(HealthServer(status, certificate))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        monkeypatch.setenv("QWEN_EDIT_PORT", str(servers[-1].server_port))

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def exit_code() -> int:
    code: int = runpy.run_path(str(HEALTHCHECK))["main"]()
    return code


@pytest.mark.parametrize(
    ("status", "code"), [("ready", 0), ("busy", 0), ("starting", 0), ("failed", 1)]
)
def test_health_check_fails_only_with_the_model(
    answer_health: Callable[..., None], status: str, code: int
) -> None:
    answer_health(status)

    assert exit_code() == code


def test_health_check_reaches_a_server_with_a_certificate_for_another_host(
    answer_health: Callable[..., None],
) -> None:
    answer_health("ready", trustme.CA().issue_cert("images.example"))

    assert exit_code() == 0


def test_health_check_fails_when_nothing_answers(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("QWEN_EDIT_PORT", "1")

    assert exit_code() == 1
    assert "http: " in capsys.readouterr().err
