"""Middleware, called as ASGI applications."""

import json
from ipaddress import ip_network

import pytest
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.types import Message

from server.web.middleware import (
    BASE_URL,
    CLIENT_ADDRESS,
    AnswerHeaders,
    BodyLimit,
    Forwarded,
    OwnHost,
)
from server.web.problem import Problem
from server.web.proxies import TrustedProxies
from tests.server.web.asgi import EchoApp, call

PROXIES = TrustedProxies([ip_network("127.0.0.0/8")])


def render(path: str, problem: Problem) -> JSONResponse:
    return JSONResponse({"path": path, "code": problem.code, "message": problem.message}, 418)


async def base_url_of(
    headers: dict[str, str], *, public_url: str | None = None, scheme: str = "http"
) -> str:
    app = EchoApp()
    await call(Forwarded(app, public_url, PROXIES), headers=headers, scheme=scheme)
    assert app.scope is not None
    url: str = app.scope["state"][BASE_URL]
    return url


@pytest.mark.parametrize(
    ("headers", "scheme", "expected"),
    [
        ({"Host": "host:8000"}, "http", "http://host:8000"),
        ({"Host": "host"}, "https", "https://host"),
        ({"Host": "host", "X-Forwarded-Proto": "https"}, "http", "https://host"),
        ({"Host": "inner", "X-Forwarded-Host": "outer"}, "http", "http://outer"),
        ({"Host": "inner", "X-Forwarded-Host": "outer, middle"}, "http", "http://outer"),
        ({"Host": "host", "X-Forwarded-Prefix": "/edit/"}, "http", "http://host/edit"),
        ({"Host": "host", "X-Forwarded-Prefix": "/edit, /x"}, "http", "http://host/edit"),
    ],
)
async def test_base_url_is_what_the_client_sees(
    headers: dict[str, str], scheme: str, expected: str
) -> None:
    assert await base_url_of(headers, scheme=scheme) == expected


async def test_public_url_wins_over_every_header() -> None:
    headers = {"Host": "inner", "X-Forwarded-Host": "outer", "X-Forwarded-Prefix": "/x"}

    url = await base_url_of(headers, public_url="https://images.example/edit")

    assert url == "https://images.example/edit"


async def test_base_url_keeps_the_state_that_a_request_has() -> None:
    app = EchoApp()
    scope = {"type": "http", "scheme": "http", "headers": [], "state": {"kept": 1}}

    async def receive() -> Message:
        return {"type": "http.request"}

    async def send(_: Message) -> None:
        pass

    await Forwarded(app, "https://here", PROXIES)(scope, receive, send)

    assert scope["state"] == {"kept": 1, BASE_URL: "https://here", CLIENT_ADDRESS: ""}


async def test_model_header_names_the_model_of_the_moment() -> None:
    names = iter(["first", "second"])
    app = AnswerHeaders(EchoApp(), lambda: next(names))

    answers = [await call(app) for _ in range(2)]

    assert [each.headers["x-qwen-edit-model"] for each in answers] == ["first", "second"]


@pytest.mark.parametrize(
    ("name", "header"),
    [
        ("Qwen-Image-Edit-2511", "Qwen-Image-Edit-2511"),
        ("owner/model_1.0 (fp8)", "owner/model_1.0%20(fp8)"),
        ("千问", "%E5%8D%83%E9%97%AE"),
        ("50%", "50%25"),
        ("a\r\nSet-Cookie: b", "a%0D%0ASet-Cookie:%20b"),
        ("\udcff", "%FF"),
    ],
)
async def test_model_header_percent_encodes_what_a_header_cannot_hold(
    name: str, header: str
) -> None:
    answer = await call(AnswerHeaders(EchoApp(), lambda: name))

    assert answer.headers["x-qwen-edit-model"] == header


@pytest.mark.parametrize(
    "host",
    ["localhost", "localhost:8000", "a.localhost", "127.0.0.1:8000", "[::1]:8000", "10.1.2.3"],
)
async def test_own_host_lets_own_names_and_addresses_through(host: str) -> None:
    app = OwnHost(EchoApp(), None, render)

    assert (await call(app, headers={"Host": host})).status == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", "localhost.evil", "["]
)
async def test_own_host_refuses_foreign_names_in_the_shape_of_the_path(host: str) -> None:
    app = EchoApp()

    answer = await call(OwnHost(app, None, render), "/v1/edits", {"Host": host})

    assert answer.status == 418
    body = json.loads(answer.body)
    assert (body["path"], body["code"]) == ("/v1/edits", "wrong_host")
    assert repr(host) in body["message"]
    assert "QWEN_EDIT_PUBLIC_URL" in body["message"]
    assert app.scope is None


async def test_own_host_closes_the_connection_instead_of_reading_a_long_body() -> None:
    headers = {"Host": "evil.example", "Content-Length": str(2**30)}

    answer = await call(OwnHost(EchoApp(), None, render), headers=headers, chunks=[])

    assert answer.headers["connection"] == "close"


async def test_own_host_lets_the_public_host_and_no_host_through() -> None:
    app = OwnHost(EchoApp(), "https://images.example/edit", render)

    assert (await call(app, headers={"Host": "images.example"})).status == 200
    assert (await call(app)).status == 200


async def test_body_limit_lets_a_body_at_the_limit_through() -> None:
    app = BodyLimit(EchoApp(), lambda _: 6, render)

    answer = await call(app, headers={"Content-Length": "6"}, chunks=[b"abc", b"def"])

    assert (answer.status, answer.body) == (200, b"abcdef")


async def test_body_limit_refuses_a_declared_length_before_the_body() -> None:
    app = EchoApp()
    limited = BodyLimit(app, lambda _: 2**20, render)

    answer = await call(limited, "/v1/edits", {"Content-Length": str(3 * 2**20)})

    assert json.loads(answer.body) == {
        "path": "/v1/edits",
        "code": "payload_too_large",
        "message": "The request has 3 MiB; at most 1 MiB are allowed.",
    }
    assert app.scope is None


@pytest.mark.parametrize("headers", [{}, {"Content-Length": "1"}, {"Content-Length": "nonsense"}])
async def test_body_limit_stops_a_body_that_turns_out_longer(headers: dict[str, str]) -> None:
    app = BodyLimit(EchoApp(), lambda _: 5, render)

    with pytest.raises(HTTPException, match="has more") as caught:
        await call(app, headers=headers, chunks=[b"abc", b"def", b"never read"])

    assert caught.value.status_code == 413


async def test_body_limit_depends_on_the_path() -> None:
    limits = {"/large": 10}
    app = BodyLimit(EchoApp(), lambda path: limits.get(path, 5), render)
    length = {"Content-Length": "8"}

    assert (await call(app, "/large", length, [b"12345678"])).status == 200
    assert (await call(app, "/small", length, [b"12345678"])).status == 418
