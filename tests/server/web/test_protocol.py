"""Deadlines of connections, on a real socket with short deadlines."""

import asyncio
import contextlib
import functools
import json
import socket
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import pytest
import trustme
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.types import Message

from server.web import protocol
from server.web.body_deadline import BodyDeadline
from server.web.connection_limits import ConnectionLimits
from server.web.protocol import LimitedProtocol
from server.web.unread_body import UNADMITTED_BYTES, UnadmittedBody
from tests.server.built_app import built_app

PATIENCE_S = 30.0
DEADLINE_S = 0.3
BIG_BYTES = 32 * 2**20
LIMIT_BYTES = 64 * 1024
received: list[int] = []


class CountingProtocol(LimitedProtocol):
    """Notes how many bytes each read took."""

    def data_received(self, data: bytes) -> None:
        received.append(len(data))
        super().data_received(data)


def application() -> FastAPI:
    app = FastAPI()
    app.add_middleware(BodyDeadline, grace_s=DEADLINE_S, min_bytes_per_s=10_000)

    @app.post("/echo")
    async def echo(request: Request) -> Response:
        return PlainTextResponse(str(len(await request.body())))

    @app.get("/wait")
    async def wait() -> Response:
        await asyncio.sleep(4 * DEADLINE_S)
        return PlainTextResponse("done")

    @app.get("/events")
    async def events() -> Response:
        async def many() -> AsyncIterator[bytes]:
            for _ in range(8):
                yield b"event\n"
                await asyncio.sleep(DEADLINE_S / 2)

        return StreamingResponse(many())

    @app.get("/big")
    async def big() -> Response:
        return Response(bytes(BIG_BYTES))

    return app


class Refusing:
    """Reads a body as a public route does, and then refuses it."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = UnadmittedBody(scope, receive, send)
        with contextlib.suppress(Exception):
            while (await body.receive()).get("more_body"):
                pass
        await PlainTextResponse("no", 413)(scope, receive, body.send)


@pytest.fixture
def serving(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    monkeypatch.setattr(protocol, "HEAD_TIMEOUT_S", DEADLINE_S)
    monkeypatch.setattr(protocol, "WRITE_INTERVAL_S", DEADLINE_S)
    received.clear()

    @contextlib.asynccontextmanager
    async def serve(app: Any, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
        """Run a server during the block and give its port."""
        limits = ConnectionLimits(10, 10, is_exempt=lambda _: True, clock=lambda: 0.0)
        http = cast(type[asyncio.Protocol], functools.partial(CountingProtocol, limits))
        config = uvicorn.Config(app, http=http, log_config=None, lifespan="off")
        server = uvicorn.Server(config)
        config.load()
        config.ssl = context
        server.lifespan = config.lifespan_class(config)
        with socket.create_server(("127.0.0.1", 0)) as listener:
            await server.startup(sockets=[listener])
            try:
                yield listener.getsockname()[1]
            finally:
                server.force_exit = True
                await server.shutdown(sockets=[listener])

    return serve


async def until_closed(reader: asyncio.StreamReader) -> bytes:
    answer = b""
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE_S):
            while part := await reader.read(65_536):
                answer += part
    return answer


async def trickle(writer: asyncio.StreamWriter, text: bytes) -> None:
    """Send a byte in a third of the deadline, for ever."""
    with contextlib.suppress(ConnectionError):
        while True:
            writer.write(text)
            await writer.drain()
            await asyncio.sleep(DEADLINE_S / 3)


@pytest.mark.parametrize(
    ("opening", "endless"),
    [
        (b"", b""),
        (b"GET / HTTP/1.1\r\n", b""),
        # neither a head nor a body becomes whole
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"a"),
        (b"GET /none HTTP/1.1\r\nHost: a\r\nContent-Length: 60000\r\n\r\n", b"a"),
    ],
    ids=["silent", "half a head", "endless head", "unread body"],
)
async def test_connection_without_a_request_is_closed(
    serving: Callable[..., Any], opening: bytes, endless: bytes
) -> None:
    async with serving(application()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(opening)
        sending = asyncio.create_task(trickle(writer, endless)) if endless else None

        await until_closed(reader)

        if sending is not None:
            sending.cancel()
        writer.close()


@pytest.mark.parametrize(("path", "expected"), [("/wait", b"done"), ("/events", b"event\n")])
async def test_request_in_progress_has_no_deadline(
    serving: Callable[..., Any], path: str, expected: bytes
) -> None:
    async with serving(application()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(f"GET {path} HTTP/1.0\r\n\r\n".encode())

        answer = await until_closed(reader)

        writer.close()
    assert answer.count(expected) == (8 if path == "/events" else 1)


async def test_slow_body_is_refused_with_408(serving: Callable[..., Any]) -> None:
    async with serving(application()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
        sending = asyncio.create_task(trickle(writer, b"a"))

        answer = await until_closed(reader)

        sending.cancel()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 408 ")
    assert b"connection: close" in answer
    assert b"at least 10000 bytes a second" in answer


async def test_body_at_the_least_rate_is_taken(serving: Callable[..., Any]) -> None:
    async with serving(application()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 40000\r\n\r\n")
        for _ in range(10):
            writer.write(bytes(4000))
            await asyncio.sleep(DEADLINE_S / 2)

        answer = await until_closed(reader)

        writer.close()
    assert answer.endswith(b"40000")


async def test_client_that_does_not_read_is_cut_off(serving: Callable[..., Any]) -> None:
    async with serving(application()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1024)
        writer.write(b"GET /big HTTP/1.0\r\n\r\n")
        await asyncio.sleep(6 * DEADLINE_S)

        answer = await until_closed(reader)

        writer.close()
    assert len(answer) < BIG_BYTES


async def test_client_that_reads_slowly_gets_everything(serving: Callable[..., Any]) -> None:
    async with serving(application()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=2**20)
        writer.write(b"GET /big HTTP/1.0\r\n\r\n")
        size = 0
        while part := await reader.read(2**20):
            size += len(part)
            await asyncio.sleep(DEADLINE_S / 10)
        writer.close()
    assert size > BIG_BYTES


async def test_little_is_read_before_the_sender_is_admitted(serving: Callable[..., Any]) -> None:
    async with serving(Refusing()) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n")
        writer.write(bytes(4_000_000))

        answer = await until_closed(reader)

        writer.close()
    assert answer.startswith(b"HTTP/1.1 413 ") or not answer
    assert UNADMITTED_BYTES < sum(received) <= LIMIT_BYTES


async def test_little_is_read_over_tls_either(serving: Callable[..., Any]) -> None:
    authority = trustme.CA()
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    theirs = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    authority.issue_cert("localhost").configure_cert(ours)
    authority.configure_trust(theirs)
    async with serving(Refusing(), ours) as port:
        _, writer = opened = await asyncio.open_connection("localhost", port, ssl=theirs)
        writer.write(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 4000000\r\n\r\n")
        writer.write(bytes(4_000_000))

        await until_closed(opened[0])

        writer.close()
    assert UNADMITTED_BYTES < sum(received) <= LIMIT_BYTES


async def test_application_times_bodies_in_the_shape_of_its_contracts(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(BodyDeadline.__init__, "__defaults__", (DEADLINE_S, 1024))
    sent: list[Message] = []
    headers = [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")]
    scope = {
        "type": "http", "method": "POST", "scheme": "http", "path": "/v1/edits",
        "query_string": b"", "headers": headers, "client": ("127.0.0.1", 1),
    }  # fmt: skip

    async def receive() -> Message:
        await asyncio.Event().wait()
        raise AssertionError("nothing comes")

    async def send(message: Message) -> None:
        sent.append(message)

    with built_app(tmp_path, page=False) as app:
        async with asyncio.timeout(PATIENCE_S):
            await app(scope, receive, send)

    assert sent[0]["status"] == 408
    assert json.loads(sent[1]["body"])["error"]["message"].startswith("The body arrives too slowly")
