"""Access of one key's owner to another's jobs, on every route of every contract."""

import re
import sqlite3
from pathlib import Path

import pytest

from tests.conftest import encoded, gradient
from tests.live_server import LiveServer
from tests.server.built_app import METHODS, built_app, operations
from tests.server.contracts.owners import (
    ALICE,
    BOB,
    BODY,
    KEYS,
    OPENAI,
    ROOT,
    SUBMIT_PATHS,
    WAVESPEED,
    body_of,
    call,
    submit,
)

# The names of job ids in paths, and the other parameters of paths.
JOB_IDS = {"edit_id", "prediction_id", "request_id"}
OTHERS = {"name", "model_id", "token", "app", "path", "session", "preset"}
# A preset in the path of a submit changes nothing about its owner.
PRESET_PATHS = tuple(
    f"{path}/{{preset}}" for path in SUBMIT_PATHS if "/fal-ai/" in path or "/wavespeed-ai/" in path
)
# Every route without the id of a job: a new one belongs to a set here, and to that set's tests.
OF_OWNERS = {
    *(("POST", path) for path in (*SUBMIT_PATHS, *PRESET_PATHS, OPENAI)),
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
    ("GET", "/v1/presets"),
    ("GET", "/v1/loras"),
    ("GET", "/v1/loras/{name:path}"),
    ("GET", "/v1/lora-thumbnails/{name:path}"),
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
