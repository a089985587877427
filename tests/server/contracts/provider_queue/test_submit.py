"""Submits to the queues of the provider and of fal."""

import re
from typing import Any

import pytest

from tests.live_server import LiveServer
from tests.server.contracts.provider_queue.client import (
    FAL,
    MOUNTED,
    PLAIN,
    ROOT,
    RUN,
    SUBMIT,
    cancel,
    native,
    post,
    status,
)


@pytest.mark.parametrize("path", [*MOUNTED, ROOT, f"{ROOT}-lora"])
def test_submit_returns_absolute_urls_under_the_requested_host(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any], path: str
) -> None:
    answer = post(server, path, body, SUBMIT)
    found = answer.json()
    url = f"{server.url}{path}/requests/{found['request_id']}"

    assert answer.status_code == 200
    assert list(found.items()) == [
        ("request_id", found["request_id"]),
        ("response_url", f"{url}/response"),
        ("status_url", f"{url}/status"),
        ("cancel_url", f"{url}/cancel"),
        ("queue_position", 0),
        ("status", "IN_QUEUE"),
    ]
    assert re.fullmatch(r"[0-9a-f]{32}", found["request_id"])
    assert answer.headers["x-fal-request-id"] == found["request_id"]
    assert status(server, found)["status"] == "IN_QUEUE"
    assert cancel(server, found).status_code == 202


def test_urls_follow_the_proxy(
    server: LiveServer, running: dict[str, Any], body: dict[str, Any]
) -> None:
    proxy = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "edit.example.org"}
    found = post(server, PLAIN, body, proxy).json()
    assert found["status_url"].startswith(f"https://edit.example.org{PLAIN}/requests/")
    server.http.put(f"{server.url}{PLAIN}/requests/{found['request_id']}/cancel")


def test_job_keeps_the_endpoint_it_was_submitted_to(
    server: LiveServer, running: dict[str, Any]
) -> None:
    job = native(server, running["request_id"])
    assert (job["contract"], job["model"]) == ("provider_queue", "fal-ai/qwen-image-edit-plus")


def test_openapi_document_lists_one_mount_and_every_field(server: LiveServer) -> None:
    document = server.http.get(f"{server.url}/openapi.json").json()
    paths = [path for path in document["paths"] if "queue" in path or "fal-ai" in path]

    assert {PLAIN, FAL, f"{FAL}-lora", ROOT, RUN} <= set(paths)
    assert not [path for path in paths if path.startswith("/model/")]
    fields = document["components"]["schemas"]["FalEditRequest"]["properties"]
    assert {"image_urls", "image_size", "num_images", "loras", "sync_mode"} <= set(fields)
