"""The application as a whole, built but not started: keys, error shapes, body limits."""

import os
import shutil
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import APIRouter, FastAPI
from fastapi.responses import JSONResponse
from fastapi.testclient import TestClient

import server.app
import server.wiring
from server.app import MAX_BODY_BYTES
from server.contracts import CONTRACTS
from server.job import Job
from server.jobs.webhook_sender import WebhookFormat
from server.web.contract import Contract, Services
from server.web.problem import Problem
from tests.server.built_app import WEIGHTS, built_app

# Operations that clients without a key may call.
PUBLIC = {
    "GET /.well-known/jwks.json",
    "GET /health",
    "GET /health/live",
    "GET /health/ready",
    "PUT /api/v3/media/uploads/{token}",
}


SETTINGS = {"page": False, "api_keys": "right-key-for-tests", "max_lora_mb": 200}


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FastAPI]:
    with built_app(tmp_path_factory.mktemp("data"), **SETTINGS) as app:
        yield app


@pytest.fixture(scope="module")
def client(app: FastAPI) -> TestClient:
    return TestClient(app, raise_server_exceptions=False)


def test_every_operation_but_the_public_ones_requires_a_key(
    app: FastAPI, client: TestClient
) -> None:
    operations = {
        f"{method.upper()} {path}"
        for path, methods in app.openapi()["paths"].items()
        for method in methods
    }
    answers = {each: client.request(*each.split(" ")) for each in operations}

    assert {each for each, answer in answers.items() if answer.status_code != 401} == PUBLIC
    assert len(operations) > 40


@pytest.mark.parametrize(
    ("path", "keys"),
    [
        ("/api/v3/nothing", {"code", "message", "error"}),
        ("/v1/edits/x", {"error"}),
        ("/v1/modelsX", {"error"}),
    ],
)
def test_error_has_the_shape_of_the_paths_contract(
    client: TestClient, path: str, keys: set[str]
) -> None:
    assert set(client.get(path).json()) == keys


def test_model_id_like_path_beside_models_has_the_native_shape(client: TestClient) -> None:
    native = client.get("/v1/modelsX").json()["error"]
    openai = client.get("/v1/models/x").json()["error"]

    assert set(native) == {"code", "message", "field"}
    assert set(openai) == {"code", "message", "param", "type"}


@pytest.mark.parametrize(
    ("path", "allowed"), [("/v1/edits", MAX_BODY_BYTES), ("/v1/loras", 200 * 2**20)]
)
def test_upload_of_a_lora_may_be_larger_than_other_bodies(
    client: TestClient, path: str, allowed: int
) -> None:
    def status(length: int, key: str) -> int:
        headers = {"Content-Length": str(length), "X-API-Key": key}
        return client.post(path, headers=headers).status_code

    assert status(allowed, "right-key-for-tests") == 400
    assert status(allowed + 2**20, "right-key-for-tests") == 413
    assert status(allowed + 2**20, "wrong") == 401


def test_body_limit_holds_three_images_in_base64() -> None:
    assert MAX_BODY_BYTES == 90 * 2**20


def test_model_folder_with_any_name_is_named_in_a_header(tmp_path: Path) -> None:
    model = tmp_path / "千问 50%"
    shutil.copytree(WEIGHTS / "demo", model, copy_function=os.symlink)

    with built_app(tmp_path, model=str(model), **SETTINGS) as app:
        answer = TestClient(app).get("/outputs/missing.png")

    assert answer.status_code == 404
    header = answer.headers["x-qwen-edit-model"]
    assert header == "%E5%8D%83%E9%97%AE%2050%25"
    assert urllib.parse.unquote(header) == model.name


def toy_contract(seen: list[Services]) -> Contract:
    """Return a contract with everything that one can have; `seen` gets its webhook's services."""

    def router(services: Services) -> APIRouter:
        routes = APIRouter()
        routes.add_api_route("/toy/model", lambda: services.model_name, methods=["GET"])
        return routes

    def public_router(services: Services) -> APIRouter:
        routes = APIRouter()
        routes.add_api_route("/toy/open", lambda: "open", methods=["GET"])
        return routes

    async def body(job: Job) -> bytes:
        return job.id.encode()

    def webhook(services: Services) -> WebhookFormat:
        seen.append(services)
        return WebhookFormat(body, lambda *_: {}, max_retries=1)

    def render_error(problem: Problem) -> JSONResponse:
        return JSONResponse({"toy": problem.code}, problem.status)

    return Contract(
        name="toy",
        prefixes=("/toy",),
        router=router,
        render_error=render_error,
        error_schema={"title": "toy error"},
        webhook=webhook,
        public_router=public_router,
        body_limits=lambda _: {"/toy/model": 7},
    )


def test_contract_needs_nothing_but_its_place_in_the_list(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Services] = []
    for module in (server.app, server.wiring):
        monkeypatch.setattr(module, "CONTRACTS", (*CONTRACTS, toy_contract(seen)))

    with built_app(tmp_path, **SETTINGS) as app:
        client = TestClient(app)
        key = {"X-API-Key": "right-key-for-tests"}

        assert client.get("/toy/model", headers=key).json() == "demo"
        assert client.get("/toy/open").json() == "open"
        unauthorized, missing = client.get("/toy/model"), client.get("/toy/nothing")
        too_large = client.get("/toy/model", headers={"Content-Length": "8", **key})
        assert (unauthorized.status_code, unauthorized.json()) == (401, {"toy": "unauthorized"})
        assert (missing.status_code, missing.json()) == (404, {"toy": "http_error"})
        assert (too_large.status_code, too_large.json()) == (413, {"toy": "payload_too_large"})
        assert "toy" not in client.get("/toys").json()
        responses = app.openapi()["paths"]["/toy/model"]["get"]["responses"]
        declared = responses["default"]["content"]["application/json"]["schema"]
        assert declared == {"title": "toy error"}
        assert [services.model_name for services in seen] == ["demo"]
