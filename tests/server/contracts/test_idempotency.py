"""The header Idempotency-Key on every submit of the four contracts."""

import itertools
import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import as_base64, encoded, gradient
from tests.fake_worker import NON_FINITE
from tests.live_server import LONG, LiveServer, until
from tests.server.contracts.owners import (
    ALICE,
    BOB,
    FAL_MODELS,
    KEYS,
    OPENAI,
    SUBMIT_PATHS,
    body_of,
)

PATHS = [*SUBMIT_PATHS, OPENAI]
# Those whose response is the outcome of the job.
RUNS = [*FAL_MODELS, OPENAI]
# One of each kind, where a test takes time.
KINDS = [SUBMIT_PATHS[0], "/v1/queue/qwen_image_edit_plus", FAL_MODELS[0], "/v1/edits", OPENAI]
numbers = itertools.count()


@pytest.fixture
def server(keyed: LiveServer) -> LiveServer:
    return keyed


def new_key() -> str:
    return f"key {next(numbers)}"


def post(
    server: LiveServer, path: str, key: str, api_key: str = ALICE, **changes: Any
) -> httpx2.Response:
    headers = {"X-API-Key": api_key, "Idempotency-Key": key}
    return server.http.post(server.url + path, json=body_of(path) | changes, headers=headers)


def id_of(answer: httpx2.Response) -> str:
    assert answer.status_code in (200, 201), answer.text
    body = answer.json()
    if "data" in body and isinstance(body["data"], dict):
        body = body["data"]
    found = body.get("id") or body.get("request_id") or answer.headers["x-request-id"]
    return str(found)


def edit(server: LiveServer, job_id: str, method: str = "GET") -> httpx2.Response:
    url = f"{server.url}/v1/edits/{job_id}"
    return server.http.request(method, url, headers={"X-API-Key": ALICE})


def page(server: LiveServer) -> dict[str, Any]:
    url = f"{server.url}/v1/edits?limit=1"
    found: dict[str, Any] = server.http.get(url, headers={"X-API-Key": ALICE}).json()
    return found


def total(server: LiveServer) -> int:
    count: int = page(server)["total"]
    return count


def newest(server: LiveServer) -> dict[str, Any]:
    found: dict[str, Any] = page(server)["items"][0]
    return found


@pytest.mark.parametrize("path", PATHS)
def test_same_request_gets_the_first_job_and_another_one_422(server: LiveServer, path: str) -> None:
    key, before = new_key(), total(server)
    name = "image_urls" if "fal-ai" in path else "images"

    first = id_of(post(server, path, key))
    repeated = id_of(post(server, path, key))
    refused = [
        post(server, path, key, prompt="another"),
        post(server, path, key, seed=2),
        post(server, path, key, **{name: [as_base64(encoded(gradient(64, 32)))]}),
    ]

    assert repeated == first
    assert [answer.status_code for answer in refused] == [422] * 3
    assert all("was sent before with other fields" in answer.text for answer in refused)
    assert total(server) == before + 1


def test_key_counts_for_its_owner_and_its_route(server: LiveServer) -> None:
    key = new_key()

    ids = [id_of(post(server, path, key)) for path in PATHS]
    ids.append(id_of(post(server, "/v1/edits", key, BOB)))

    assert len(set(ids)) == len(PATHS) + 1


@pytest.mark.parametrize("path", PATHS)
def test_repeat_after_the_job_was_deleted_gets_410(server: LiveServer, path: str) -> None:
    key = new_key()
    job_id = id_of(post(server, path, key))
    until(lambda: edit(server, job_id).json()["status"] == "succeeded")
    assert edit(server, job_id, "DELETE").status_code == 204

    gone = post(server, path, key)

    assert gone.status_code == 410
    assert "was deleted" in gone.text


def test_repeat_after_a_running_job_was_deleted_gets_410(server: LiveServer) -> None:
    path, key = KINDS[0], new_key()
    job_id = id_of(post(server, path, key, **LONG))
    until(lambda: edit(server, job_id).json()["status"] == "running")
    url = f"{server.url}/api/v3/predictions/delete"
    server.http.post(url, json={"ids": [job_id]}, headers={"X-API-Key": ALICE})

    assert post(server, path, key, **LONG).status_code == 410


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("key", ["", "k" * 256, "a\tb", "schlüssel"])
def test_malformed_key_is_refused_by_name(server: LiveServer, path: str, key: str) -> None:
    headers = {b"X-API-Key": ALICE.encode(), b"Idempotency-Key": key.encode()}
    refused = server.http.post(server.url + path, json=body_of(path), headers=headers)

    assert refused.status_code == 400
    assert "Idempotency-Key must have 1 to 255 printable ASCII characters" in refused.text


def test_twenty_at_once_become_one_job(server: LiveServer) -> None:
    for path in KINDS:
        key, before = new_key(), total(server)

        with ThreadPoolExecutor(20) as pool:
            answers = list(pool.map(lambda _: post(server, path, key), range(20)))  # noqa: B023

        assert len({id_of(answer) for answer in answers}) == 1
        assert total(server) == before + 1


def test_form_and_json_with_the_same_fields_are_the_same_request(server: LiveServer) -> None:
    key, image = new_key(), encoded(gradient())
    headers = {"X-API-Key": ALICE, "Idempotency-Key": key}

    def form(**fields: str) -> httpx2.Response:
        files = [("image", ("a.png", image)), *((k, (None, v)) for k, v in fields.items())]
        return server.http.post(server.url + OPENAI, files=files, headers=headers)

    first = id_of(form(prompt="a", seed="-1"))

    assert id_of(form(prompt="a")) == first
    assert id_of(form(prompt="a", n="1", size="")) == first
    assert form(prompt="a", n="2").status_code == 422


@pytest.mark.parametrize("path", PATHS)
def test_refused_request_is_not_remembered(server: LiveServer, path: str) -> None:
    key = new_key()

    refused = post(server, path, key, seed=-5)

    assert refused.status_code in (400, 422)
    id_of(post(server, path, key))


@pytest.mark.parametrize("path", RUNS)
def test_failed_run_is_an_error_that_no_repeat_gets_again(server: LiveServer, path: str) -> None:
    key, before = new_key(), total(server)

    failed = [post(server, path, key, prompt=NON_FINITE) for _ in range(2)]
    succeeded = post(server, path, key)

    assert [answer.status_code for answer in failed] == [500, 500]
    assert succeeded.status_code == 200
    assert total(server) == before + 3


@pytest.mark.parametrize("path", [path for path in KINDS if path not in RUNS])
def test_failed_job_is_the_same_for_a_repeat(server: LiveServer, path: str) -> None:
    key = new_key()
    first = id_of(post(server, path, key, prompt=NON_FINITE))
    until(lambda: edit(server, first).json()["status"] == "failed")

    assert id_of(post(server, path, key, prompt=NON_FINITE)) == first


def test_hang_up_leaves_the_job_to_the_repeat(server: LiveServer) -> None:
    for path, changes in (
        ("/v1/edits?wait=60", {}),
        (OPENAI, {}),
        (OPENAI, {"stream": True, "partial_images": 2}),
        (FAL_MODELS[0], {}),
    ):
        key, before = new_key(), total(server)
        changes = changes | {"num_inference_steps": 20}
        body = body_of(path) | changes
        headers = {"X-API-Key": ALICE, "Idempotency-Key": key}
        request = httpx2.Request("POST", server.url + path, json=body, headers=headers)

        with server.send(request):
            until(lambda: total(server) == before + 1)  # noqa: B023
        repeated = post(server, path, key, **changes)

        assert repeated.status_code in (200, 201), repeated.text
        assert total(server) == before + 1
        assert newest(server)["status"] == "succeeded"


def test_key_survives_a_killed_server(tiny_model: Path, tmp_path: Path) -> None:
    server = LiveServer(tiny_model, tmp_path, API_KEYS=KEYS)
    try:
        server.start()
        keys = {path: new_key() for path in KINDS if path not in RUNS}
        first = {path: id_of(post(server, path, key)) for path, key in keys.items()}
        server.process.send_signal(signal.SIGKILL)
        server.process.wait()
        server.start()
        again = {path: id_of(post(server, path, key)) for path, key in keys.items()}
        other = post(server, "/v1/edits", keys["/v1/edits"], prompt="another")
    finally:
        server.close()

    assert again == first
    assert other.status_code == 422
