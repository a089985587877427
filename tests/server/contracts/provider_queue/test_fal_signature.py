"""fal's signed webhooks, from a live server to a receiver that verifies them as fal documents."""

import base64
import hashlib
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import httpx2
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from server.cli import run
from server.contracts.provider_queue.signing import SigningKey
from tests.live_server import LiveServer, until
from tests.server.contracts.provider_queue.client import FAL, submit
from tests.webhook_receiver import Received, Receiver, webhook_receiver

LEEWAY_S = 300


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as running:
        yield running


def published_keys(server: LiveServer) -> list[dict[str, str]]:
    """Fetch the keys as a receiver does: without an API key."""
    answer = httpx2.get(f"{server.url}/.well-known/jwks.json")
    assert answer.status_code == 200, answer.text
    keys: list[dict[str, str]] = answer.json()["keys"]
    return keys


def is_valid(keys: list[dict[str, str]], headers: Mapping[str, str], body: bytes) -> bool:
    """Verify a webhook by fal's documentation: some published key signed this request, now."""
    headers = {name.lower(): value for name, value in headers.items()}
    timestamp = headers["x-fal-webhook-timestamp"]
    if abs(time.time() - int(timestamp)) > LEEWAY_S:
        return False
    digest = hashlib.sha256(body).hexdigest()
    request_id, user_id = headers["x-fal-webhook-request-id"], headers["x-fal-webhook-user-id"]
    message = "\n".join([request_id, user_id, timestamp, digest]).encode()
    signature = bytes.fromhex(headers["x-fal-webhook-signature"])
    return any(_has_signed(key, signature, message) for key in keys)


def _has_signed(key: dict[str, str], signature: bytes, message: bytes) -> bool:
    public = base64.urlsafe_b64decode(key["x"] + "=" * (-len(key["x"]) % 4))
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, message)
    except InvalidSignature:
        return False
    return True


def delivered(server: LiveServer, receiver: Receiver, body: dict[str, Any]) -> Received:
    before = len(receiver.received)
    submit(server, f"{FAL}?fal_webhook={receiver.url}", body)
    until(lambda: len(receiver.received) > before)
    return receiver.received[-1]


def test_webhook_is_signed_with_the_published_key(
    fetching_server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    keys = published_keys(fetching_server)
    received = delivered(fetching_server, receiver, body)

    assert is_valid(keys, received.headers, received.body)
    (key,) = keys
    assert (key["kty"], key["crv"]) == ("OKP", "Ed25519")
    assert "=" not in key["x"]


def test_changed_webhook_is_not_valid(
    fetching_server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    keys = published_keys(fetching_server)
    received = delivered(fetching_server, receiver, body)
    headers = {name.lower(): value for name, value in received.headers.items()}

    assert is_valid(keys, headers, received.body)
    assert not is_valid(keys, headers, received.body.replace(b'"OK"', b'"ERROR"'))
    for name in ("request-id", "user-id"):
        assert not is_valid(keys, headers | {f"x-fal-webhook-{name}": "other"}, received.body)
    later = str(int(headers["x-fal-webhook-timestamp"]) + 1)
    assert not is_valid(keys, headers | {"x-fal-webhook-timestamp": later}, received.body)


def test_key_is_the_same_after_a_restart_and_readable_by_its_owner_only(
    start_server: Callable[..., LiveServer], receiver: Receiver, body: dict[str, Any]
) -> None:
    # receivers fetch the public key also where clients need an API key
    server = start_server(ALLOW_NETWORKS="127.0.0.0/8", API_KEYS="a-key-of-an-operator")
    server.http.headers["Authorization"] = "Key a-key-of-an-operator"
    keys = published_keys(server)
    server.stop()
    server.start()
    received = delivered(server, receiver, body)

    assert is_valid(keys, received.headers, received.body)
    assert published_keys(server) == keys
    assert stat.S_IMODE((server.data_dir / "fal_webhook_key.pem").stat().st_mode) == 0o600


def test_two_servers_have_different_keys(tmp_path: Path) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]
    for folder in folders:
        folder.mkdir()

    assert len({SigningKey.of(folder).public.x for folder in folders}) == 2


def test_server_does_not_start_with_a_damaged_key_and_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "fal_webhook_key.pem").write_text("not a key")
    monkeypatch.setenv("QWEN_EDIT_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("QWEN_EDIT_PAGE", "false")

    assert run(["serve", "--model", "demo", "--port", "0"]) == 2

    message = " ".join(capsys.readouterr().err.split())
    assert "does not hold the Ed25519 private key that signs fal's webhooks" in message
    assert "fal_webhook_key.pem" in message.replace(" ", "")
    assert (tmp_path / "fal_webhook_key.pem").read_text() == "not a key"
