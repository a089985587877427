"""Requests without a key to a live server: refused before their body, of which little is read."""

import contextlib
import json
import socket
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from server.contracts import CONTRACTS
from server.errors import Unauthorized
from server.web.contract import find_contract
from server.web.problem import problem_of
from tests.live_server import PATIENCE_S, LiveServer
from tests.server.built_app import built_app, filled, operations
from tests.server.playground.conftest import with_page

KEY = {"Authorization": "Bearer right-key-for-tests"}
TICKETS = "/api/v3/media/uploads"
# What answers a client without a key; every other route must not.
PUBLIC_PATHS = {
    "/",
    "/login",
    "/.well-known/jwks.json",
    "/health",
    "/health/live",
    "/health/ready",
    "/outputs/{name}",
    "/uploads/{name}",
    "/docs",
    "/docs/oauth2-redirect",
    "/redoc",
    "/openapi.json",
    "/static-offline-docs",
}
PUBLIC = ("PUT", f"{TICKETS}/{{token}}")
# below the limit of bodies: a larger one gets 413
LENGTH = {"Content-Length": str(64 * 2**20)}
CHUNKED = {"Transfer-Encoding": "chunked"}
# The server reads up to 64 KiB, as `test_protocol.py` counts, and as much waits in the kernel.
ACCEPTED_BYTES = 2 * 64 * 1024
SEND_BUFFER_BYTES = 8 * 1024
FLOOD_BYTES = 4 * 2**20


@pytest.fixture(scope="module")
def keyed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("keyed")
    server = LiveServer(
        tiny_model, folder, PAGE="true", API_KEYS="right-key-for-tests", CORS_ORIGINS="*"
    )
    try:
        server.start(wait_ready=False)
        yield with_page(server)
    finally:
        server.close()


@pytest.fixture(scope="module")
def closed(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every method and path that needs a key or a cookie."""
    with built_app(tmp_path_factory.mktemp("built"), page=True) as app:
        found = operations(app)
    needing = [each for each in found if each[1] not in PUBLIC_PATHS and each != PUBLIC]
    assert len(needing) > 100
    return [(method, filled(path, "x")) for method, path in needing]


class Connection:
    """A raw connection that sends what it is given, and counts it."""

    def __init__(self, server: LiveServer) -> None:
        host, _, port = server.url.removeprefix("http://").partition(":")
        self._socket = socket.socket()
        # a large one would count as sent what the server never gets
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER_BYTES // 2)
        self._socket.settimeout(PATIENCE_S)
        self._socket.connect((host, int(port)))
        self.sent = 0

    def close(self) -> None:
        self._socket.close()

    def send_head(self, method: str, path: str, headers: Mapping[str, str]) -> None:
        lines = [f"{method} {path} HTTP/1.1", "Host: localhost"]
        lines += [f"{name}: {value}" for name, value in headers.items()]
        self._socket.sendall("\r\n".join([*lines, "", ""]).encode())

    def send(self, body: bytes) -> None:
        self._socket.sendall(body)

    def flood(self, *, chunked: bool) -> None:
        """Send the body until the server closes the connection, at most FLOOD_BYTES."""
        piece = b"1000\r\n" + b"a" * 0x1000 + b"\r\n" if chunked else b"a" * 0x1000
        with contextlib.suppress(ConnectionError):
            while self.sent < FLOOD_BYTES:
                self.sent += self._socket.send(piece)

    def receive(self) -> bytes:
        """Receive all until the server closes the connection."""
        received = b""
        with contextlib.suppress(ConnectionError):
            while part := self._socket.recv(65536):
                received += part
        return received

    def receive_answer(self) -> tuple[int, bytes]:
        """Receive one response with a declared length, and leave the connection open."""
        with self._socket.makefile("rb") as file:
            status = int(file.readline().split()[1])
            headers = {}
            while (line := file.readline().strip()) != b"":
                name, _, value = line.partition(b":")
                headers[name.lower()] = value
            return status, file.read(int(headers.get(b"content-length", b"0")))


def head_and_body(answer: bytes) -> tuple[str, bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return head.decode().lower(), body


def has_shape(path: str, body: bytes) -> bool:
    expected = find_contract(CONTRACTS, path).render_error(problem_of(Unauthorized()))
    return set(json.loads(body)) == set(json.loads(bytes(expected.body)))


@pytest.mark.parametrize(
    "headers",
    [LENGTH, CHUNKED, {**LENGTH, "Expect": "100-continue"}],
    ids=["length", "chunked", "expect"],
)
def test_every_closed_route_refuses_before_a_body_byte(
    keyed: LiveServer, closed: list[tuple[str, str]], headers: Mapping[str, str]
) -> None:
    for method, path in closed:
        with contextlib.closing(Connection(keyed)) as connection:
            connection.send_head(method, path, headers)
            # ends without a byte of the body, and without 100 Continue
            head, body = head_and_body(connection.receive())

        assert head.startswith("http/1.1 401 "), (method, path, head)
        assert "connection: close" in head, (method, path)
        assert method == "HEAD" or has_shape(path, body), (method, path)


@pytest.mark.parametrize("headers", [LENGTH, CHUNKED], ids=["length", "chunked"])
def test_every_closed_route_reads_little_of_a_flood(
    keyed: LiveServer, closed: list[tuple[str, str]], headers: Mapping[str, str]
) -> None:
    for method, path in closed:
        with contextlib.closing(Connection(keyed)) as connection:
            connection.send_head(method, path, headers)
            connection.flood(chunked=headers is CHUNKED)
            head, _ = head_and_body(connection.receive())

        assert connection.sent <= ACCEPTED_BYTES + SEND_BUFFER_BYTES, (method, path)
        assert head.startswith("http/1.1 401 "), (method, path, head)


@pytest.mark.parametrize("headers", [LENGTH, CHUNKED], ids=["length", "chunked"])
@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/nothing", 404),
        ("POST", "/health", 405),
        ("POST", "/outputs/x", 405),
        ("POST", "/", 405),
        ("POST", "/login", 413),
        ("GET", "/health", 200),
        ("PUT", f"{TICKETS}/unknown", 404),
    ],
)
def test_public_route_reads_little_of_a_flood(
    keyed: LiveServer, headers: Mapping[str, str], method: str, path: str, status: int
) -> None:
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    with contextlib.closing(Connection(keyed)) as connection:
        connection.send_head(method, path, {**headers, **form})
        connection.flood(chunked=headers is CHUNKED)
        head, _ = head_and_body(connection.receive())

    assert connection.sent <= ACCEPTED_BYTES + SEND_BUFFER_BYTES
    assert head.startswith(f"http/1.1 {status} ")


def test_connection_stays_usable_after_a_short_body_without_a_key(keyed: LiveServer) -> None:
    with contextlib.closing(Connection(keyed)) as connection:
        connection.send_head("POST", "/v1/edits", {"Content-Length": "5"})
        refused, _ = connection.receive_answer()
        connection.send(b"hello")
        connection.send_head("GET", "/v1/edits", KEY)

        accepted, _ = connection.receive_answer()

    assert (refused, accepted) == (401, 200)


def ticket(server: LiveServer, size: int) -> str:
    body = {"filename": "a.png", "size": size, "content_type": "image/png"}
    answer = server.http.post(server.url + TICKETS, json=body, headers=KEY)
    url: str = answer.json()["data"]["upload"]["url"]
    return url.removeprefix(server.url)


def test_ticket_admits_a_long_body_without_a_key(keyed: LiveServer) -> None:
    size = 2**20
    headers = {
        "Content-Type": "image/png",
        "Content-Length": str(size),
        "Expect": "100-continue",
    }
    with contextlib.closing(Connection(keyed)) as connection:
        connection.send_head("PUT", ticket(keyed, size), headers)
        continues, _ = connection.receive_answer()
        connection.send(b"a" * size)

        status, body = connection.receive_answer()

    assert (continues, status) == (100, 200)
    assert json.loads(body)["data"]["size"] == size


def test_unknown_ticket_is_refused_without_100_continue(keyed: LiveServer) -> None:
    with contextlib.closing(Connection(keyed)) as connection:
        connection.send_head("PUT", f"{TICKETS}/unknown", {**LENGTH, "Expect": "100-continue"})

        head, body = head_and_body(connection.receive())

    assert head.startswith("http/1.1 404 ")
    assert json.loads(body)["code"] == 404


def test_ticket_admits_no_more_than_its_size(keyed: LiveServer) -> None:
    with contextlib.closing(Connection(keyed)) as connection:
        path = ticket(keyed, 10)
        connection.send_head("PUT", path, {**CHUNKED, "Content-Type": "image/png"})
        connection.flood(chunked=True)

        head, _ = head_and_body(connection.receive())

    assert connection.sent <= ACCEPTED_BYTES + SEND_BUFFER_BYTES
    assert head.startswith("http/1.1 400 ")


def test_cookie_of_the_page_admits_an_upload(keyed: LiveServer) -> None:
    upload, files = f"{keyed.url}/gradio_api/upload", {"files": ("a.png", b"a" * 2**20)}
    refused = keyed.http.post(upload, files=files)
    login = keyed.http.post(f"{keyed.url}/login", data={"key": "right-key-for-tests"})
    cookie = login.headers["set-cookie"].partition(";")[0]

    accepted = keyed.http.post(upload, files=files, headers={"Cookie": cookie})

    keyed.http.cookies.clear()
    assert (refused.status_code, accepted.status_code) == (401, 200)


def test_preflight_needs_no_key(keyed: LiveServer) -> None:
    headers = {"Origin": "https://a.example", "Access-Control-Request-Method": "POST"}

    answer = keyed.http.options(f"{keyed.url}/v1/edits", headers=headers)

    assert answer.status_code == 200
    assert answer.headers["access-control-allow-origin"] == "*"


def test_page_of_an_allowed_origin_can_read_the_refusal(keyed: LiveServer) -> None:
    answer = keyed.http.post(f"{keyed.url}/v1/edits", headers={"Origin": "https://a.example"})

    assert answer.status_code == 401
    assert answer.headers["access-control-allow-origin"] == "*"
