"""API keys over HTTP, in each of the three headers that clients use, and what needs one."""

from collections.abc import Iterator, Mapping, Sequence

import pytest
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from server.caller import EVERYBODY, ApiKey, Caller
from server.errors import Forbidden
from server.web.auth import KeyCheck, RequireKey, caller, require_admin
from server.web.problem import Problem
from server.web.unread_body import UNADMITTED_BYTES, admit_body
from tests.server.web.asgi import EchoApp, call


def render(_: str, problem: Problem) -> JSONResponse:
    return JSONResponse(problem.message, problem.status, problem.headers)


def key_check(*keys: str) -> KeyCheck:
    """Return a check of these keys, each owned by the caller of its name."""
    return KeyCheck([ApiKey(key, Caller(key, is_admin=False)) for key in keys])


def client_of(keys: Sequence[str]) -> TestClient:
    """Return a client of an application with a route that needs a key and two that do not."""
    app = FastAPI()

    @app.put("/public")
    async def echo_size(request: Request) -> int:
        return len(await request.body())

    @app.put("/token")
    async def admit_and_echo_size(request: Request) -> int:
        admit_body(request)
        return len(await request.body())

    public = app.routes[:]

    @app.api_route("/", methods=["GET", "PUT"])
    def answer(request: Request) -> str:
        return "accepted" if isinstance(caller(request), Caller) else "nobody"

    app.add_middleware(
        RequireKey, keys=key_check(*keys), routes=app.routes, public_routes=public, render=render
    )
    return TestClient(app)


@pytest.fixture
def client() -> Iterator[TestClient]:
    with client_of(["first-key", "second-key"]) as client:
        yield client


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": "Bearer first-key"},
        {"Authorization": "bearer  first-key "},
        {"Authorization": "Key first-key"},
        {"authorization": "KEY first-key"},
        {"X-API-Key": "first-key"},
        {"x-api-key": " first-key "},
        {"api-key": "first-key"},
        {"API-Key": " second-key "},
        {"Authorization": "Basic dXNlcjpwYXNz", "X-API-Key": "first-key"},
    ],
)
def test_key_is_accepted_in_every_header_and_scheme(
    client: TestClient, headers: Mapping[str, str]
) -> None:
    assert client.get("/", headers=headers).json() == "accepted"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": "first-key"},
        {"Authorization": "Basic first-key"},
        {"Authorization": "Bearer first-key-and-more"},
        {"Authorization": "Bearer first"},
        {"Authorization": "Bearer FIRST-KEY"},
        {"X-API-Key": ""},
        {"X-API-Key": "wrong"},
    ],
)
def test_request_without_a_valid_key_is_refused_with_instructions(
    client: TestClient, headers: Mapping[str, str]
) -> None:
    answer = client.get("/", headers=headers)

    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.json() == (
        "A valid API key is required: as `Authorization: Bearer <key>`, `Key <key>` or `X-API-Key`."
    )


def test_each_of_several_keys_is_accepted() -> None:
    with client_of(["one", "two"]) as client:
        for key in ("one", "two"):
            assert client.get("/", headers={"X-API-Key": key}).status_code == 200


def test_key_in_the_url_is_ignored(client: TestClient) -> None:
    assert client.get("/?key=first-key&api_key=first-key").status_code == 401


def test_header_that_is_not_text_is_refused(client: TestClient) -> None:
    assert client.get("/", headers={"X-API-Key": b"\xff\xfe"}).status_code == 401


@pytest.mark.parametrize("headers", [{}, {"Authorization": "Bearer anything"}])
def test_every_request_is_accepted_when_no_keys_are_set(headers: Mapping[str, str]) -> None:
    with client_of([]) as client:
        assert client.get("/", headers=headers).status_code == 200


def test_added_route_needs_a_key_and_an_unknown_path_or_method_none(client: TestClient) -> None:
    assert client.get("/").status_code == 401
    assert client.get("/nothing").status_code == 404
    assert client.delete("/").status_code == 405


async def test_body_of_a_request_without_a_key_is_not_received() -> None:
    app = EchoApp()
    routes = client_of([]).app.routes  # type: ignore[attr-defined]
    guarded = RequireKey(app, key_check("right"), routes, (), render)

    # receive() would fail: there is no chunk to give
    answer = await call(guarded, "/", {"Content-Length": "5"}, chunks=[], method="PUT")

    assert answer.status == 401
    assert app.scope is None


def test_public_route_receives_a_short_body_and_refuses_a_long_one(client: TestClient) -> None:
    short = client.put("/public", content=b"a" * UNADMITTED_BYTES)
    long = client.put("/public", content=b"a" * (UNADMITTED_BYTES + 1))
    with_key = client.put(
        "/public", content=b"a" * 10**6, headers={"Authorization": "Key first-key"}
    )

    assert (short.status_code, short.json()) == (200, UNADMITTED_BYTES)
    assert long.status_code == 413
    assert "32 KiB" in long.json()["detail"]
    assert (with_key.status_code, with_key.json()) == (200, 10**6)


def test_public_route_that_admits_a_body_receives_all_of_it(client: TestClient) -> None:
    answer = client.put("/token", content=b"a" * 10**6)

    assert (answer.status_code, answer.json()) == (200, 10**6)
    assert "connection" not in answer.headers


@pytest.mark.parametrize(
    ("headers", "closes"),
    [
        ({}, False),
        ({"Content-Length": str(UNADMITTED_BYTES)}, False),
        ({"Content-Length": str(UNADMITTED_BYTES + 1)}, True),
        ({"Transfer-Encoding": "chunked"}, True),
        ({"Content-Length": "5", "Expect": "100-continue"}, True),
    ],
)
async def test_refusal_closes_the_connection_when_a_long_body_may_follow(
    headers: Mapping[str, str], closes: bool
) -> None:
    routes = client_of([]).app.routes  # type: ignore[attr-defined]
    guarded = RequireKey(EchoApp(), key_check("right"), routes, (), render)

    answer = await call(guarded, "/", headers, chunks=[], method="PUT")

    assert answer.status == 401
    assert answer.headers.get("connection") == ("close" if closes else None)


def callers_client(keys: KeyCheck) -> TestClient:
    """Return a client of a route that answers the caller, and of one for admins."""
    app = FastAPI()

    @app.get("/me")
    def me(request: Request) -> list[object]:
        return [caller(request).owner, caller(request).is_admin]

    @app.get("/admin")
    def admin(request: Request) -> str:
        try:
            require_admin(request)
        except Forbidden as exc:
            return str(exc)
        return "welcome"

    app.add_middleware(RequireKey, keys=keys, routes=app.routes, public_routes=(), render=render)
    return TestClient(app)


def test_route_sees_the_caller_of_the_key() -> None:
    keys = [ApiKey("a" * 16, Caller("alice", is_admin=False)), ApiKey("b" * 16, EVERYBODY)]
    client = callers_client(KeyCheck(keys))

    found = [client.get("/me", headers={"X-API-Key": letter * 16}).json() for letter in "ab"]

    assert found == [["alice", False], [EVERYBODY.owner, True]]


def test_ordinary_key_is_no_admin() -> None:
    keys = [ApiKey("a" * 16, Caller("a", is_admin=False)), ApiKey("b" * 16, Caller("b", True))]
    client = callers_client(KeyCheck(keys))

    ordinary, admin = (
        client.get("/admin", headers={"X-API-Key": letter * 16}).json() for letter in "ab"
    )

    assert "needs an admin's key" in ordinary
    assert admin == "welcome"


@pytest.mark.parametrize("key", ["", "anything"])
def test_everybody_is_one_admin_when_no_keys_are_set(key: str) -> None:
    client = callers_client(KeyCheck([]))

    assert client.get("/me", headers={"X-API-Key": key}).json() == [EVERYBODY.owner, True]


def test_cookie_token_names_the_caller_until_it_expires() -> None:
    keys = key_check("alice", "bob")
    token = keys.token("bob", expires_at=1000.0)

    assert keys.caller_of_token(token, 999.0) == Caller("bob", is_admin=False)
    assert keys.caller_of_token(token, 1000.0) is None
    assert key_check("alice").caller_of_token(token, 999.0) is None


@pytest.mark.parametrize("change", ["2000", "", "nan", "inf", "-1"])
def test_cookie_token_cannot_be_prolonged(change: str) -> None:
    keys = key_check("bob")
    signature = keys.token("bob", expires_at=1000.0).partition(".")[2]

    assert keys.caller_of_token(f"{change}.{signature}", 999.0) is None
