"""API keys over HTTP, in each of the three headers that clients use."""

from collections.abc import Iterator, Mapping, Sequence

import pytest
from fastapi import Depends, FastAPI, Request
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

from server.errors import Unauthorized
from server.web.auth import KeyCheck
from server.web.problem import problem_of


def client_of(keys: Sequence[str]) -> TestClient:
    """Return a client of an application that only checks keys."""
    app = FastAPI(dependencies=[Depends(KeyCheck(keys))])

    @app.get("/")
    def answer() -> str:
        return "accepted"

    @app.exception_handler(Unauthorized)
    def refuse(_: Request, exc: Exception) -> JSONResponse:
        problem = problem_of(exc)
        return JSONResponse(problem.message, problem.status, problem.headers)

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
