"""Keys of two owners and an admin, and requests with them to every contract."""

from typing import Any

import httpx2

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LiveServer

ALICE, BOB, ROOT = "alice-has-this-key", "bob-has-this-key-too", "root-has-the-last-key"
KEYS = f"alice={ALICE}, bob={BOB}, admin:root={ROOT}"
WAVESPEED = "/api/v3/wavespeed-ai/qwen-image/edit-plus-lora"
IMAGE = as_base64(encoded(gradient()))
BODY = {"prompt": "a", "images": [IMAGE], "size": "512*512", "seed": 1}
FAL_BODY = {"prompt": "a", "image_urls": [f"data:image/png;base64,{IMAGE}"], "seed": 1}
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


def body_of(path: str) -> dict[str, Any]:
    return FAL_BODY if "fal-ai" in path else BODY
