"""Limits of an owner over HTTP, and the turns of several."""

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from tests.live_server import LONG, LiveServer, until
from tests.server.contracts.owners import (
    ALICE,
    BOB,
    BODY,
    KEYS,
    ROOT,
    SUBMIT_PATHS,
    body_of,
    call,
)


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
