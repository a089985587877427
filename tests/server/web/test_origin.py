"""Requests of other origins, called as ASGI applications."""

import json

import pytest
from fastapi.responses import JSONResponse

from server.web.middleware import Forwarded
from server.web.origin import CrossSite, OriginRule
from server.web.problem import Problem
from server.web.proxies import TrustedProxies
from tests.server.web.asgi import Answer, EchoApp, call

OWN = {"Host": "here:8000"}


def render(path: str, problem: Problem) -> JSONResponse:
    return JSONResponse({"path": path, "code": problem.code, "message": problem.message}, 418)


async def answer_to(
    headers: dict[str, str],
    *,
    method: str = "POST",
    allowed: tuple[str, ...] = (),
    public_url: str | None = None,
    app: EchoApp | None = None,
) -> Answer:
    guarded = CrossSite(app or EchoApp(), OriginRule(allowed), render)
    app = Forwarded(guarded, public_url, TrustedProxies([]))
    return await call(app, "/v1/edits", {**OWN, **headers}, method=method)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Origin": "http://here:8000"},
        {"Origin": "http://HERE:8000"},
        {"Origin": "http://here:8000", "Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "same-origin"},
        {"Sec-Fetch-Site": "none"},
    ],
)
async def test_request_of_the_servers_own_origin_or_of_no_browser_passes(
    headers: dict[str, str],
) -> None:
    assert (await answer_to(headers)).status == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "QUERY"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "http://evil.example"},
        {"Origin": "http://here:9000"},
        {"Origin": "http://here"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": "http://["},
        {"Origin": "http://evil.example", "Sec-Fetch-Site": "same-origin"},
        {"Origin": "http://here:8000", "Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Sec-Fetch-Site": "Cross-Site"},
    ],
)
async def test_unsafe_request_of_another_origin_is_refused_before_its_body(
    method: str, headers: dict[str, str]
) -> None:
    app = EchoApp()

    answer = await answer_to(headers, method=method, app=app)

    body = json.loads(answer.body)
    assert (answer.status, body["path"], body["code"]) == (418, "/v1/edits", "wrong_origin")
    assert headers.get("Origin", "another site") in body["message"]
    assert "QWEN_EDIT_CORS_ORIGINS" in body["message"]
    assert app.scope is None


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS"])
async def test_safe_request_of_another_origin_passes(method: str) -> None:
    headers = {"Origin": "http://evil.example", "Sec-Fetch-Site": "cross-site"}

    assert (await answer_to(headers, method=method)).status == 200


async def test_null_origin_is_foreign_to_a_request_without_a_host() -> None:
    assert (await answer_to({"Host": "", "Origin": "null"})).status == 418


async def test_public_url_is_an_own_origin() -> None:
    headers = {"Origin": "https://images.example"}

    assert (await answer_to(headers, public_url="https://images.example/edit")).status == 200


@pytest.mark.parametrize(
    ("allowed", "status"),
    [
        (("https://a.example", "https://b.example"), 200),
        (("*",), 200),
        (("https://a.example",), 418),
        (("https://b.example.evil",), 418),
    ],
)
async def test_allowed_origin_passes(allowed: tuple[str, ...], status: int) -> None:
    headers = {"Origin": "https://b.example", "Sec-Fetch-Site": "cross-site"}

    assert (await answer_to(headers, allowed=allowed)).status == status


async def test_refusal_shows_the_start_of_a_long_origin_and_closes_the_connection() -> None:
    headers = {"Origin": "http://" + "a" * 10_000, "Content-Length": str(2**30)}

    answer = await answer_to(headers)

    assert len(answer.body) < 1000
    assert answer.headers["connection"] == "close"
