"""What one key's owner sees and changes of another's, on every route of every contract."""

import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LONG, LiveServer, until
from tests.server.built_app import METHODS, built_app, operations

ALICE, BOB, ROOT = "alice-has-this-key", "bob-has-this-key-too", "root-has-the-last-key"
KEYS = f"alice={ALICE}, bob={BOB}, admin:root={ROOT}"
WAVESPEED = "/api/v3/wavespeed-ai/qwen-image/edit-plus-lora"
IMAGE = as_base64(encoded(gradient()))
BODY = {"prompt": "a", "images": [IMAGE], "size": "512*512", "seed": 1}
FAL_BODY = {"prompt": "a", "image_urls": [f"data:image/png;base64,{IMAGE}"], "seed": 1}
# The names of job ids in paths, and the other parameters of paths.
JOB_IDS = {"edit_id", "prediction_id", "request_id"}
OTHERS = {"name", "model_id", "token", "app", "path", "session"}
# Every route without the id of a job: a new one belongs to a set here, and to that set's tests.
WAVESPEED_MODELS = [
    f"/api/v3/wavespeed-ai/qwen-image/edit-{name}"
    for name in ("plus", "plus-lora", "2511", "2511-lora")
]
QUEUE_MODELS = [
    f"{mount}/{model}"
    for mount in ("/v1/queue", "/model/v1/queue")
    for model in (
        "qwen_image_edit_plus",
        "fal-ai/qwen-image-edit-plus",
        "fal-ai/qwen-image-edit-plus-lora",
    )
]
FAL_MODELS = [
    f"{mount}/fal-ai/qwen-image-edit-plus{suffix}"
    for mount in ("", "/run")
    for suffix in ("", "-lora")
]
SUBMIT_PATHS = [*WAVESPEED_MODELS, *QUEUE_MODELS, *FAL_MODELS, "/v1/edits"]
OPENAI = "/v1/images/edits"
OF_OWNERS = {
    *(("POST", path) for path in (*SUBMIT_PATHS, OPENAI)),
    ("GET", "/v1/edits"),
    ("POST", "/api/v3/predictions"),
    ("POST", "/api/v3/predictions/delete"),
    ("POST", "/api/v3/media/uploads"),
    ("POST", "/api/v3/media/upload/binary"),
    ("POST", "/api/v2/media/upload/binary"),
    ("GET", "/api/v3/webhook/secret"),
}
OF_ADMINS = {("POST", "/v1/loras"), ("DELETE", "/v1/loras/{name:path}"), ("GET", "/metrics")}
# The same for every key: the server's models, LoRAs, documentation and health; and what only an
# unguessable name or token opens.
OF_EVERYBODY = {
    ("GET", "/"),
    ("GET", "/docs"),
    ("GET", "/docs/oauth2-redirect"),
    ("GET", "/redoc"),
    ("GET", "/openapi.json"),
    ("HEAD", "/openapi.json"),
    *((method, "/static-offline-docs") for method in METHODS),
    ("GET", "/health"),
    ("GET", "/health/live"),
    ("GET", "/health/ready"),
    ("GET", "/.well-known/jwks.json"),
    ("GET", "/v1/capabilities"),
    ("GET", "/v1/models"),
    ("GET", "/v1/models/{model_id:path}"),
    ("GET", "/v1/loras"),
    ("GET", "/v1/loras/{name:path}"),
    ("GET", "/api/v3/models"),
    ("GET", "/api/v3/balance"),
    ("POST", "/api/v3/model/price"),
    ("POST", "/api/v3/model/pricing"),
    ("PUT", "/api/v3/media/uploads/{token}"),
    *(
        (method, f"/{kind}/{{name}}")
        for method in ("GET", "HEAD")
        for kind in ("outputs", "uploads")
    ),
    *(
        (method, f"{mount}/{{app:path}}")
        for method in ("GET", "POST", "PUT")
        for mount in ("/v1/queue", "/model/v1/queue", "/fal-ai", "/run/fal-ai")
    ),
}


@pytest.fixture(scope="module")
def keyed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    server = LiveServer(tiny_model, tmp_path_factory.mktemp("owners"), API_KEYS=KEYS)
    try:
        yield server.start()
    finally:
        server.close()


@pytest.fixture(scope="module")
def every_route(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[str, str]]:
    """Every method and path."""
    with built_app(tmp_path_factory.mktemp("built"), page=False) as app:
        return operations(app)


@pytest.fixture(scope="module")
def routes(every_route: list[tuple[str, str]]) -> list[tuple[str, str]]:
    """Every method and path with the id of a job."""
    names = {name for _, path in every_route for name in re.findall(r"{(\w+)", path)}
    assert names <= JOB_IDS | OTHERS, "a new parameter: is it the id of something with an owner?"
    return [each for each in every_route if JOB_IDS & set(re.findall(r"{(\w+)", each[1]))]


def call(server: LiveServer, key: str, method: str, path: str, body: Any = None) -> httpx2.Response:
    headers = {"X-API-Key": key}
    return server.http.request(method, server.url + path, json=body, headers=headers)


def submit(server: LiveServer, key: str, prompt: str = "a") -> str:
    """Submit a native edit and return its id once it has ended."""
    answer = call(server, key, "POST", "/v1/edits?wait=60", BODY | {"prompt": prompt})
    assert answer.status_code == 201, answer.text
    assert answer.json()["status"] == "succeeded"
    job_id: str = answer.json()["id"]
    return job_id


def test_foreign_job_does_not_exist_on_any_route(
    keyed: LiveServer, routes: list[tuple[str, str]]
) -> None:
    job_id = submit(keyed, ALICE)
    assert len(routes) > 30

    for method, path in routes:
        path = re.sub(r"{\w+}", job_id, path)
        foreign = call(keyed, BOB, method, path)
        unknown = call(keyed, BOB, method, path.replace(job_id, "0" * 32))
        assert foreign.status_code == unknown.status_code == 404, (method, path, foreign.text)
        # the same answer as for an id that never was, but for random ids of requests
        assert len(foreign.text) == len(unknown.text)
    for key in (ALICE, ROOT):
        assert call(keyed, key, "GET", f"/v1/edits/{job_id}").json()["status"] == "succeeded"


def test_own_job_is_read_on_every_route_by_its_owner_and_an_admin(
    keyed: LiveServer, routes: list[tuple[str, str]]
) -> None:
    job_id = submit(keyed, ALICE)

    for method, path in routes:
        if method == "GET":
            path = re.sub(r"{\w+}", job_id, path)
            for key in (ALICE, ROOT):
                assert call(keyed, key, "GET", path).status_code == 200, (key, path)


def test_lists_show_ones_own_and_an_admin_everything(keyed: LiveServer) -> None:
    mine, theirs = submit(keyed, ALICE, "mine"), submit(keyed, BOB, "theirs")

    def listed(key: str) -> set[str]:
        found = call(keyed, key, "GET", "/v1/edits?limit=100").json()
        assert found["total"] == len(found["items"])
        return {item["id"] for item in found["items"]}

    assert mine in listed(ALICE)
    assert theirs not in listed(ALICE)
    assert mine not in listed(BOB)
    assert {mine, theirs} <= listed(ROOT)


def test_predictions_are_listed_and_deleted_by_their_owner_alone(keyed: LiveServer) -> None:
    answer = call(keyed, ALICE, "POST", WAVESPEED, BODY | {"enable_sync_mode": True})
    prediction_id = answer.json()["data"]["id"]

    def listed(key: str) -> list[str]:
        found = call(keyed, key, "POST", "/api/v3/predictions", {"page": 1, "page_size": 100})
        return [item["id"] for item in found.json()["data"]["items"]]

    def delete(key: str) -> int:
        body = {"ids": [prediction_id]}
        found = call(keyed, key, "POST", "/api/v3/predictions/delete", body).json()["data"]
        count: int = found["deleted_count"]
        return count

    assert prediction_id in listed(ALICE)
    assert prediction_id in listed(ROOT)
    assert prediction_id not in listed(BOB)
    assert delete(BOB) == 0
    assert delete(ALICE) == 1


def test_every_other_route_is_known_by_whom_it_serves(
    every_route: list[tuple[str, str]], routes: list[tuple[str, str]]
) -> None:
    known = OF_OWNERS | OF_ADMINS | OF_EVERYBODY

    assert {each for each in every_route if each not in routes} == known


def body_of(path: str) -> dict[str, Any]:
    return FAL_BODY if "fal-ai" in path else BODY


@pytest.mark.parametrize("path", [*SUBMIT_PATHS, OPENAI])
def test_submit_stores_the_owner(keyed: LiveServer, path: str) -> None:
    def total(key: str) -> int:
        found: int = call(keyed, key, "GET", "/v1/edits?limit=1").json()["total"]
        return found

    before = {key: total(key) for key in (ALICE, BOB, ROOT)}
    if path == OPENAI:
        form, files = {"prompt": "a", "size": "256x256"}, {"image": ("a.png", encoded(gradient()))}
        headers = {"X-API-Key": ALICE}
        answer = keyed.http.post(keyed.url + path, data=form, files=files, headers=headers)
    else:
        answer = call(keyed, ALICE, "POST", path, body_of(path))

    assert answer.status_code in (200, 201), answer.text
    added = {key: total(key) - count for key, count in before.items()}
    assert added == {ALICE: 1, BOB: 0, ROOT: 1}


def test_metrics_are_for_admins(keyed: LiveServer) -> None:
    assert call(keyed, ALICE, "GET", "/metrics").status_code == 403
    assert call(keyed, ROOT, "GET", "/metrics").status_code == 200


def test_only_an_admin_changes_loras(keyed: LiveServer) -> None:
    for method, path in (("POST", "/v1/loras"), ("DELETE", "/v1/loras/nothing")):
        answer = call(keyed, ALICE, method, path)
        assert (answer.status_code, answer.json()["error"]["code"]) == (403, "forbidden")
        assert "an admin's key" in answer.json()["error"]["message"]
        assert call(keyed, ROOT, method, path).status_code in (400, 404)
    assert call(keyed, ALICE, "GET", "/v1/loras").status_code == 200


def test_webhook_secret_is_the_owners_own(keyed: LiveServer) -> None:
    found = [
        call(keyed, key, "GET", "/api/v3/webhook/secret").json()["data"]["secret"]
        for key in (ALICE, BOB, ALICE)
    ]

    assert found[0] == found[2] != found[1]


def test_job_without_an_owner_is_read_by_id_and_listed_for_admins(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Jobs from before owners were stored."""
    server = LiveServer(tiny_model, tmp_path, API_KEYS=KEYS)
    try:
        server.start()
        job_id = submit(server, ALICE)
        server.kill()
        with sqlite3.connect(server.data_dir / "jobs.sqlite3") as connection:
            connection.execute("UPDATE jobs SET owner = NULL")
        connection.close()
        server.start(wait_ready=False)

        read = call(server, BOB, "GET", f"/v1/edits/{job_id}")
        listed = [
            [item["id"] for item in call(server, key, "GET", "/v1/edits").json()["items"]]
            for key in (ALICE, ROOT)
        ]
    finally:
        server.close()

    assert read.status_code == 200
    assert listed == [[], [job_id]]


@pytest.fixture(scope="module")
def limited(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose worker is busy, so that jobs wait."""
    server = LiveServer(
        tiny_model,
        tmp_path_factory.mktemp("limited"),
        API_KEYS=KEYS,
        MAX_WAITING_JOBS_PER_KEY=2,
        MAX_UPLOAD_GB_PER_KEY=1 / 1024,
    )
    try:
        server.start()
        busy = call(server, ROOT, "POST", "/v1/edits", BODY | LONG).json()["id"]
        edit = f"/v1/edits/{busy}"
        until(lambda: call(server, ROOT, "GET", edit).json()["status"] == "running")
        yield server
    finally:
        server.close()


def test_owner_with_too_many_waiting_jobs_gets_429_and_others_do_not(limited: LiveServer) -> None:
    for _ in range(2):
        assert call(limited, ALICE, "POST", "/v1/edits", BODY).status_code == 201

    for path in SUBMIT_PATHS:
        refused = call(limited, ALICE, "POST", path, body_of(path))
        assert refused.status_code == 429, refused.text
        assert int(refused.headers["retry-after"]) >= 1
        assert "QWEN_EDIT_MAX_WAITING_JOBS_PER_KEY allows 2" in refused.text
    assert call(limited, BOB, "POST", "/v1/edits", BODY).status_code == 201


def test_owner_without_room_for_uploads_gets_507(limited: LiveServer) -> None:
    size = 300 * 1024

    def ticket(key: str) -> httpx2.Response:
        body = {"filename": "a.png", "size": size}
        return call(limited, key, "POST", "/api/v3/media/uploads", body)

    def binary(key: str, version: str) -> httpx2.Response:
        url = f"{limited.url}/api/{version}/media/upload/binary"
        files = {"file": ("a.png", bytes(size))}
        return limited.http.post(url, files=files, headers={"X-API-Key": key})

    taken = [ticket(ALICE), binary(ALICE, "v2"), binary(ALICE, "v3")]
    refused = [ticket(ALICE), binary(ALICE, "v2"), binary(ALICE, "v3")]

    assert [answer.status_code for answer in taken] == [200] * 3
    for answer in refused:
        assert answer.status_code == 507
        assert "QWEN_EDIT_MAX_UPLOAD_GB_PER_KEY" in answer.json()["message"]
    assert ticket(BOB).status_code == 200


def test_submits_beyond_the_rate_get_429_and_polls_never(tiny_model: Path, tmp_path: Path) -> None:
    server = LiveServer(tiny_model, tmp_path, API_KEYS=KEYS, MAX_SUBMITS_PER_MINUTE_PER_KEY=2)
    try:
        server.start()
        ids = [call(server, ALICE, "POST", "/v1/edits", BODY).json()["id"] for _ in range(2)]
        for path in SUBMIT_PATHS:
            refused = call(server, ALICE, "POST", path, body_of(path))
            assert refused.status_code == 429, refused.text
            assert 1 <= int(refused.headers["retry-after"]) <= 60
        polls = [call(server, ALICE, "GET", f"/v1/edits/{ids[0]}").status_code for _ in range(20)]
        other = call(server, BOB, "POST", "/v1/edits", BODY)
    finally:
        server.close()

    assert polls == [200] * 20
    assert other.status_code == 201


def test_positions_alternate_between_owners(limited: LiveServer) -> None:
    def position(key: str, job_id: str) -> int:
        found: int = call(limited, key, "GET", f"/v1/edits/{job_id}").json()["position"]
        return found

    for key in (ALICE, BOB):
        for item in call(limited, key, "GET", "/v1/edits").json()["items"]:
            call(limited, key, "DELETE", f"/v1/edits/{item['id']}")
    ids = [call(limited, ALICE, "POST", "/v1/edits", BODY).json()["id"] for _ in range(2)]
    newcomer = call(limited, BOB, "POST", "/v1/edits", BODY).json()["id"]

    assert [position(ALICE, job_id) for job_id in ids] == [0, 2]
    assert position(BOB, newcomer) == 1
