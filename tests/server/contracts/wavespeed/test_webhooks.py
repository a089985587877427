"""WaveSpeed's webhooks from a live server to a receiver with its own verification."""

import http.server
import re
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.conftest import encoded, gradient
from tests.live_server import LONG, LiveServer, until
from tests.webhook_receiver import Received, Receiver, webhook_receiver

SUBMIT = "/api/v3/wavespeed-ai/qwen-image/edit-plus-lora"
SECRET = "whsec_a-secret-of-the-operator"
LOOPBACK = "127.0.0.0/8"


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server that delivers to loopback addresses too."""
    folder = tmp_path_factory.mktemp("webhooks")
    running = LiveServer(tiny_model, folder, ALLOW_NETWORKS=LOOPBACK, WEBHOOK_SECRET=SECRET)
    yield running.start()
    running.close()


@pytest.fixture(scope="module")
def strict_server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server that delivers to public addresses only."""
    running = LiveServer(tiny_model, tmp_path_factory.mktemp("strict"))
    yield running.start()
    running.close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with webhook_receiver() as running:
        yield running


def submit(
    server: LiveServer, body: dict[str, Any], webhook: str | None = None, **headers: str
) -> httpx2.Response:
    params = {"webhook": webhook} if webhook is not None else {}
    return server.http.post(server.url + SUBMIT, json=body, params=params, headers=headers)


def accepted(answer: httpx2.Response) -> dict[str, Any]:
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def result(server: LiveServer, data: dict[str, Any]) -> dict[str, Any]:
    path = f"/api/v3/predictions/{data['id']}/result"
    found: dict[str, Any] = server.http.get(server.url + path).json()["data"]
    return found


def deliveries(receiver: Receiver, count: int = 1) -> list[Received]:
    until(lambda: len(receiver.received) >= count)
    return receiver.received


def test_completed_prediction_is_delivered_bare_and_signed(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    data = accepted(submit(server, body, f"{receiver.url}?a=1&b=c%20d"))

    (received,) = deliveries(receiver)

    assert received.path == "/hook?a=1&b=c%20d"
    assert received.json == result(server, data)
    assert received.json["status"] == "completed"
    assert list(received.json)[:3] == ["id", "model", "outputs"]
    assert received.headers["Content-Type"] == "application/json"
    assert received.headers["webhook-id"] == data["id"]
    assert re.fullmatch(r"v3,[0-9a-f]{64}", received.headers["webhook-signature"])
    assert received.is_signed_with(SECRET)
    assert not received.is_signed_with("whsec_another-secret-than-that")
    assert httpx2.get(received.json["outputs"][0]).status_code == 200


def test_webhook_secret_of_the_operator_is_returned_to_clients(server: LiveServer) -> None:
    answer = server.http.get(f"{server.url}/api/v3/webhook/secret")
    assert answer.json()["data"] == {"secret": SECRET}


def test_webhook_is_signed_with_the_secret_of_its_owner(
    tiny_model: Path, tmp_path: Path, receiver: Receiver, body: dict[str, Any]
) -> None:
    alice, bob = "alice-has-this-key", "bob-has-this-key-too"
    server = LiveServer(
        tiny_model, tmp_path, ALLOW_NETWORKS=LOOPBACK, API_KEYS=f"alice={alice},bob={bob}"
    )

    def secret_of(key: str) -> str:
        path = f"{server.url}/api/v3/webhook/secret"
        found: str = server.http.get(path, headers={"X-API-Key": key}).json()["data"]["secret"]
        return found

    try:
        server.start(wait_ready=False)
        accepted(submit(server, body, receiver.url, **{"X-API-Key": alice}))
        (received,) = deliveries(receiver)
        is_signed_with = [received.is_signed_with(secret_of(key)) for key in (alice, bob)]
    finally:
        server.close()

    assert is_signed_with == [True, False]


def test_failed_prediction_is_delivered(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    data = accepted(submit(server, body | {"images": ["http://127.0.0.1:9/a.png"]}, receiver.url))
    (received,) = deliveries(receiver)
    assert received.json == result(server, data)
    assert received.json["status"] == "failed"
    assert received.json["outputs"] == []
    assert received.json["code"] == 1402
    assert received.is_signed_with(SECRET)


def test_canceled_prediction_is_delivered_as_failed(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    running, waiting = (accepted(submit(server, body | LONG, receiver.url)) for _ in range(2))
    until(lambda: result(server, running)["status"] == "processing")
    for data in (waiting, running):
        server.http.delete(f"{server.url}/v1/edits/{data['id']}")

    received = deliveries(receiver, 2)

    assert {entry.json["id"] for entry in received} == {running["id"], waiting["id"]}
    for entry in received:
        assert (entry.json["status"], entry.json["error"]) == ("failed", "The task was canceled.")
        assert entry.is_signed_with(SECRET)


def test_webhook_url_in_the_body_receives_the_delivery(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    data = accepted(submit(server, body | {"webhook_url": receiver.url}))
    (received,) = deliveries(receiver)
    assert received.json["id"] == data["id"]


def test_query_overrides_the_body(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    other = f"{receiver.url}/other"
    accepted(submit(server, body | {"webhook_url": other}, receiver.url))
    (received,) = deliveries(receiver)
    assert received.path == "/hook"


def test_delivered_urls_use_the_host_of_the_submit(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    headers = {"X-Forwarded-Proto": "https", "X-Forwarded-Host": "edit.example.org"}
    accepted(submit(server, body, receiver.url, **headers))
    (received,) = deliveries(receiver)
    assert received.json["urls"]["get"].startswith("https://edit.example.org/api/v3/")
    assert received.json["outputs"][0].startswith("https://edit.example.org/outputs/")


def test_prediction_without_a_webhook_delivers_nothing(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    for webhook in (None, ""):
        data = accepted(submit(server, body, webhook))
        until(lambda data=data: result(server, data)["status"] == "completed")
    accepted(submit(server, body, receiver.url))
    assert len(deliveries(receiver)) == 1


def test_delivery_is_retried_when_the_receiver_fails(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    receiver.statuses = [500]
    accepted(submit(server, body, receiver.url))

    first, second = deliveries(receiver, 2)

    assert first.body == second.body
    waited = int(second.headers["webhook-timestamp"]) - int(first.headers["webhook-timestamp"])
    assert waited >= 1
    assert second.is_signed_with(SECRET)


def test_redirect_is_not_followed(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    with webhook_receiver() as elsewhere:
        receiver.statuses = [307]
        receiver.location = elsewhere.url
        accepted(submit(server, body, receiver.url))
        deliveries(receiver, 2)
        assert elsewhere.received == []


def test_retry_survives_a_kill_of_the_server(
    start_server: Callable[..., LiveServer], receiver: Receiver, body: dict[str, Any]
) -> None:
    server = start_server(ALLOW_NETWORKS=LOOPBACK, WEBHOOK_SECRET=SECRET)
    # Fails until the kill, which may come after a second attempt.
    receiver.statuses = [500] * 10
    data = accepted(submit(server, body, receiver.url))
    until(lambda: "attempt 1" in server.log())
    server.kill()
    receiver.statuses = []
    before = len(receiver.received)

    server.start(wait_ready=False)

    received = deliveries(receiver, before + 1)
    assert received[-1].json["id"] == data["id"]
    # The URLs keep the host of the submit, although the restarted server has another port.
    assert received[-1].body == received[0].body
    assert received[-1].is_signed_with(SECRET)


def test_interrupted_delivery_is_repeated_after_a_kill(
    start_server: Callable[..., LiveServer], body: dict[str, Any]
) -> None:
    """The receiver accepts the first request but never responds to it."""
    server = start_server(ALLOW_NETWORKS=LOOPBACK, WEBHOOK_SECRET=SECRET)
    with silent_then_fine() as (url, arrived, bodies):
        data = accepted(submit(server, body, url))
        assert arrived.wait(300)
        server.kill()
        server.start(wait_ready=False)
        until(lambda: len(bodies) == 1)
    assert data["id"].encode() in bodies[0]


class silent_then_fine:  # noqa: N801 - used as a function
    """A receiver that never responds to the first POST."""

    def __enter__(self) -> tuple[str, threading.Event, list[bytes]]:
        arrived, released, bodies = threading.Event(), threading.Event(), []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                content = self.rfile.read(int(self.headers["Content-Length"]))
                if not arrived.is_set():
                    arrived.set()
                    released.wait(300)
                    return
                bodies.append(content)
                self.send_response(204)
                self.end_headers()

            def log_message(self, *_: object) -> None:
                pass

        self._released = released
        self._host = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._host.serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{self._host.server_port}/", arrived, bodies

    def __exit__(self, *_: object) -> None:
        self._released.set()
        self._host.shutdown()
        self._host.server_close()


def test_deleted_prediction_is_not_delivered(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    running, waiting = (accepted(submit(server, body | LONG, receiver.url)) for _ in range(2))
    until(lambda: result(server, running)["status"] == "processing")
    ids = [waiting["id"], running["id"]]
    deleted = server.http.post(f"{server.url}/api/v3/predictions/delete", json={"ids": ids})
    assert deleted.json()["data"]["deleted_count"] == 2

    last = accepted(submit(server, body, receiver.url))

    assert deliveries(receiver)[0].json["id"] == last["id"]
    assert len(receiver.received) == 1


BAD_ADDRESSES = [
    ("http://127.0.0.1/hook", "127.0.0.1 is not a public address"),
    ("http://localhost:9/hook", "is not a public address"),
    ("http://10.1.2.3/hook", "10.1.2.3 is not a public address"),
    ("http://192.168.0.1/", "192.168.0.1 is not a public address"),
    ("http://169.254.169.254/latest/meta-data", "is not a public address"),
    ("http://[::1]/hook", "::1 is not a public address"),
    ("http://[::ffff:10.0.0.1]/", "10.0.0.1 is not a public address"),
    ("http://[fd00::1]/", "is not a public address"),
    ("http://2130706433/", "127.0.0.1 is not a public address"),
    ("http://0x7f.1/", "127.0.0.1 is not a public address"),
    ("http://0.0.0.0/", "0.0.0.0 is not a public address"),
    ("ftp://hooks.example.org/", "must be an http(s) URL"),
    ("file:///etc/passwd", "must be an http(s) URL"),
    ("javascript:alert(1)", "must be an http(s) URL"),
    ("hooks.example.org/hook", "must be an http(s) URL"),
    ("/hook", "must be an http(s) URL"),
    ("http://", "must be an http(s) URL"),
    ("http:///hook", "must be an http(s) URL"),
    ("http://[::1", "is no address"),
    ("http://host:port/", "is no address"),
    ("http://host:99999/", "is no address"),
    ("http://a b/", "is no address"),
    ("http://host/\n", "is no address"),
]


@pytest.mark.parametrize("place", ["webhook", "webhook_url"])
@pytest.mark.parametrize(("url", "message"), BAD_ADDRESSES)
def test_bad_webhook_url_is_rejected_at_submit(
    strict_server: LiveServer, body: dict[str, Any], url: str, message: str, place: str
) -> None:
    before = strict_server.http.get(f"{strict_server.url}/v1/edits").json()["total"]

    if place == "webhook":
        answer = submit(strict_server, body, url)
    else:
        answer = submit(strict_server, body | {"webhook_url": url})

    assert answer.status_code == 400
    assert f'Error at "/{place}"' in answer.json()["error"]
    assert message in answer.json()["error"]
    assert strict_server.http.get(f"{strict_server.url}/v1/edits").json()["total"] == before


def test_webhook_url_is_rejected_when_its_network_is_not_allowed(
    server: LiveServer, body: dict[str, Any]
) -> None:
    assert submit(server, body, "http://10.1.2.3/").status_code == 400


def test_webhook_with_base64_output_is_rejected(
    server: LiveServer, receiver: Receiver, body: dict[str, Any]
) -> None:
    body |= {"enable_base64_output": True}
    for answer in (
        submit(server, body, receiver.url),
        submit(server, body | {"webhook_url": receiver.url}),
    ):
        assert answer.status_code == 400
        assert 'Error at "/enable_base64_output"' in answer.json()["error"]


def test_offline_server_rejects_webhooks(
    start_server: Callable[..., LiveServer], body: dict[str, Any]
) -> None:
    server = start_server(OFFLINE="true", wait_ready=False)
    answer = submit(server, body, "https://93.184.215.14/hook")
    assert answer.status_code == 400
    assert "webhook: this server runs offline" in answer.json()["error"]


def test_webhook_url_is_checked_again_before_delivery(
    start_server: Callable[..., LiveServer], receiver: Receiver
) -> None:
    """By the end of the job, a host may have moved or its network may be forbidden."""
    server = start_server(ALLOW_NETWORKS=LOOPBACK)
    # Fails until the kill, which may come after a second attempt.
    receiver.statuses = [500] * 10
    body = {"prompt": "a", "image": f"data:,{_percent(encoded(gradient()))}"}
    accepted(submit(server, body, receiver.url))
    until(lambda: "attempt 1" in server.log())
    server.kill()
    before = len(receiver.received)

    server._settings.pop("ALLOW_NETWORKS")
    server.start(wait_ready=False)

    until(lambda: "127.0.0.1 is not a public address" in server.log())
    assert len(receiver.received) == before


def _percent(data: bytes) -> str:
    return "".join(f"%{byte:02x}" for byte in data)
