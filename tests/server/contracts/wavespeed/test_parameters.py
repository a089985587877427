"""Parameters, their bounds, and the limits of the server."""

import io
from collections.abc import Callable
from typing import Any

import httpx2
import PIL.Image
import pytest
import wavespeed

from tests.conftest import as_base64, encoded, gradient
from tests.live_server import LONG, LiveServer, until
from tests.server.contracts.wavespeed.client import (
    MODEL,
    SUBMIT,
    error_of,
    pixels_of,
    run,
    status_of,
    submit,
)


def test_seed_reproduces_the_image_unless_it_is_minus_one(
    server: LiveServer, body: dict[str, Any]
) -> None:
    body |= {"output_format": "png", "enable_base64_output": True}
    images = [pixels_of(run(server, body | {"seed": seed})) for seed in (9, 9, -1, -1)]
    assert images[0] == images[1]
    assert len(set(images)) == 3


@pytest.mark.parametrize(("size", "expected"), [("256*320", (256, 320)), ("301x257", (301, 257))])
def test_output_has_exactly_the_requested_size(
    server: LiveServer, body: dict[str, Any], size: str, expected: tuple[int, int]
) -> None:
    output = run(server, body | {"size": size})["outputs"][0]
    assert PIL.Image.open(io.BytesIO(httpx2.get(output).content)).size == expected


def test_one_to_three_images_are_accepted(server: LiveServer, body: dict[str, Any]) -> None:
    images = [as_base64(encoded(gradient(shift=40 * index))) for index in range(3)]
    outputs = set()
    for count in (1, 2, 3):
        data = run(server, body | {"images": images[:count], "enable_base64_output": True})
        outputs.add(data["outputs"][0])
    assert len(outputs) == 3


BAD_BODIES: list[tuple[dict[str, Any], str, str]] = [
    ({"prompt": ""}, "/prompt", "at least 1 character, got ''"),
    ({"prompt": "   "}, "/prompt", "must not be empty"),
    ({"prompt": "x" * 10_001}, "/prompt", "at most 10000 characters, got 10001"),
    ({"size": "255*256"}, "/size", "256–1536 pixels, got '255*256'"),
    ({"size": "1536*1537"}, "/size", "256–1536 pixels, got '1536*1537'"),
    ({"size": "abc"}, "/size", "width*height in pixels"),
    ({"images": []}, "/images", "1 to 3 entries, got 0"),
    ({"images": "x"}, "/images", "valid list, got 'x'"),
    ({"images": ["aGVsbG8="] * 4}, "/images", "1 to 3 entries, got 4"),
    ({"images": ["aGVsbG8="]}, "/images/0", "not an image that can be read"),
    ({"loras": [{"path": "a"}] * 4}, "/loras", "at most 3 items"),
    ({"loras": ["a"]}, "/loras/0", "got 'a'"),
    ({"loras": [{"path": "a", "scale": -0.1}]}, "/loras/0/scale", "or equal to 0, got -0.1"),
    ({"loras": [{"path": "a", "scale": 4.1}]}, "/loras/0/scale", "or equal to 4, got 4.1"),
    ({"loras": [{"scale": 1}]}, "/loras/0/path", "is required"),
    ({"loras": [{"path": "../a"}]}, "/loras/0/path", "must be a file name under"),
    ({"loras": [{"path": "/etc/passwd"}]}, "/loras/0/path", "must be a file name under"),
    ({"loras": [{"path": "nothing"}]}, "/loras/0/path", "There is no LoRA 'nothing'"),
    ({"seed": -2}, "/seed", "or equal to -1, got -2"),
    ({"seed": 2147483648}, "/seed", "or equal to 2147483647, got 2147483648"),
    ({"output_format": "gif"}, "/output_format", "'jpeg', 'png' or 'webp', got 'gif'"),
    ({"num_inference_steps": 1}, "/num_inference_steps", "or equal to 2, got 1"),
    ({"guidance_scale": 21}, "/guidance_scale", "or equal to 20, got 21"),
    ({"webhook_url": "http://127.0.0.1/"}, "/webhook_url", "is not a public address"),
    (
        {"webhook_url": "https://a.example/", "enable_base64_output": True},
        "/enable_base64_output",
        "cannot be combined",
    ),
]


@pytest.mark.parametrize(("change", "place", "message"), BAD_BODIES)
def test_bad_value_returns_400_with_a_message_and_queues_nothing(
    server: LiveServer, body: dict[str, Any], change: dict[str, Any], place: str, message: str
) -> None:
    """Rules 4 and 17."""
    before = server.http.get(f"{server.url}/v1/edits").json()["total"]

    answer = submit(server, body | change)

    assert answer.status_code == 400
    assert message in error_of(answer)
    assert f'invalid request body, Error at "{place}":' in error_of(answer)
    assert server.http.get(f"{server.url}/v1/edits").json()["total"] == before


def test_missing_prompt_has_its_own_business_code(server: LiveServer, image_base64: str) -> None:
    answer = submit(server, {"images": [image_base64]})
    assert answer.json()["data"]["code"] == 1400
    assert "prompt is required" in error_of(answer)


@pytest.mark.parametrize("content", [b"{", b"[]", b"null", b'"x"', b"\xff"])
def test_body_returns_400_when_it_is_no_object(server: LiveServer, content: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(server.url + SUBMIT, content=content, headers=headers)
    assert answer.status_code == 400
    assert error_of(answer)


def test_lora_is_rejected_when_it_is_not_safetensors(
    server: LiveServer, body: dict[str, Any]
) -> None:
    (server.weights_dir / "loras" / "pickle.safetensors").write_bytes(b"PK\x03\x04" + b"\0" * 60)
    answer = submit(server, body | {"loras": [{"path": "pickle"}]})
    assert answer.status_code == 400
    message = error_of(answer)
    assert "pickle.safetensors is not a safetensors file (it looks like a pickle" in message


def test_image_over_the_size_limit_returns_413(server: LiveServer, body: dict[str, Any]) -> None:
    answer = submit(server, body | {"images": ["A" * (28 * 2**20)]})
    assert answer.status_code == 413
    assert "images/0 has 21.0 MiB; at most 20 MiB are allowed" in error_of(answer)


def test_image_over_the_pixel_limit_returns_400(server: LiveServer, body: dict[str, Any]) -> None:
    large = PIL.Image.new("1", (9000, 8000))
    answer = submit(server, body | {"images": [as_base64(encoded(large))]})
    assert answer.status_code == 400
    assert "9000×8000 pixels; at most 64 million" in error_of(answer)


@pytest.mark.parametrize("declared", [True, False])
def test_body_over_the_limit_returns_413(server: LiveServer, declared: bool) -> None:
    content = b'{"prompt": "' + b"x" * (91 * 2**20) + b'"}'
    chunks = (content[start : start + 2**20] for start in range(0, len(content), 2**20))
    answer = server.http.post(
        server.url + SUBMIT,
        content=content if declared else chunks,
        headers={"Content-Type": "application/json"},
    )
    assert answer.status_code == 413
    assert "at most 90 MiB are allowed" in error_of(answer)


def test_full_queue_returns_429_with_retry_after(
    start_server: Callable[..., LiveServer], body: dict[str, Any]
) -> None:
    server = start_server(MAX_WAITING_JOBS=2)
    first = submit(server, body | LONG).json()["data"]
    until(lambda: status_of(server, first) == "processing")
    answers = [submit(server, body | LONG) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 429]
    assert int(answers[2].headers["retry-after"]) >= 1
    assert "2 jobs wait, and the server takes at most 2" in error_of(answers[2])


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer wrong"}, 401),
        ({"Authorization": "Bearer right-key-for-tests"}, 200),
        ({"Authorization": "Key right-key-for-tests"}, 200),
        ({"X-API-Key": "second-key-for-tests"}, 200),
    ],
)
def test_key_is_required_when_keys_are_set(
    keyed_server: LiveServer, body: dict[str, Any], headers: dict[str, str], status: int
) -> None:
    answer = keyed_server.http.post(keyed_server.url + SUBMIT, json=body, headers=headers)
    assert answer.status_code == status
    if status == 401:
        assert "API key is required" in error_of(answer)


def test_output_needs_no_key(keyed_server: LiveServer, body: dict[str, Any]) -> None:
    """Rule 8."""
    keyed = wavespeed.Client(api_key="right-key-for-tests", base_url=keyed_server.url)
    output = keyed.run(MODEL, body, poll_interval=0.05)["outputs"][0]
    assert httpx2.get(output).status_code == 200
