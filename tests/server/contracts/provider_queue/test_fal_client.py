"""fal's published Python client, unmodified, against a live server."""

import base64
import io
from collections.abc import AsyncIterator, Iterator
from typing import Any

import fal_client
import fal_client.client
import httpx2
import PIL.Image
import pytest

from tests.conftest import encoded, gradient
from tests.live_server import LiveServer, until

APPS = ("fal-ai/qwen-image-edit-plus", "fal-ai/qwen-image-edit-plus-lora")
APP = APPS[0]
INTERVAL_S = 0.02
LONG = {"num_inference_steps": 100, "image_size": "square_hd"}


@pytest.fixture
def arguments() -> dict[str, Any]:
    """Return the arguments of fal's documentation, the image encoded by the client's `encode`."""
    return {
        "prompt": "make it blue",
        "image_urls": [fal_client.encode(encoded(gradient()), "image/png")],
        "image_size": "square",
        "seed": 7,
    }


@pytest.fixture(params=["/v1/queue/", "/model/v1/queue/"])
def queue_path(request: pytest.FixtureRequest) -> str:
    path: str = request.param
    return path


@pytest.fixture
def client(
    server: LiveServer, queue_path: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[fal_client.SyncClient]:
    """Set only the two addresses: they use plain http, and the client uses https by itself."""
    _point(monkeypatch, server, queue_path)
    made = fal_client.SyncClient(key="any")
    yield made
    made._client.close()


@pytest.fixture
async def async_client(
    server: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[fal_client.AsyncClient]:
    _point(monkeypatch, server, "/v1/queue/")
    made = fal_client.AsyncClient(key="any")
    yield made
    await (await made._client).aclose()


def _point(monkeypatch: pytest.MonkeyPatch, server: LiveServer, queue_path: str) -> None:
    monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", server.url + queue_path)
    monkeypatch.setattr(fal_client.client, "RUN_URL_FORMAT", f"{server.url}/run/")


def _check(found: dict[str, Any]) -> None:
    [image] = found["images"]
    data = httpx2.get(image["url"]).content
    assert PIL.Image.open(io.BytesIO(data)).size == (512, 512)
    assert (found["seed"], found["has_nsfw_concepts"]) == (7, [False])


def _names(updates: list[fal_client.Status]) -> list[str]:
    """Return the kinds of updates without repeats, in order of arrival."""
    return list(dict.fromkeys(type(update).__name__ for update in updates))


def _native_status(server: LiveServer, request_id: str) -> str:
    status: str = server.http.get(f"{server.url}/v1/edits/{request_id}").json()["status"]
    return status


@pytest.mark.parametrize("app", APPS)
def test_subscribe_runs_an_edit(
    client: fal_client.SyncClient, arguments: dict[str, Any], app: str
) -> None:
    enqueued: list[str] = []
    updates: list[fal_client.Status] = []

    found = client.subscribe(
        app,
        arguments,
        with_logs=True,
        interval=INTERVAL_S,
        on_enqueue=enqueued.append,
        on_queue_update=updates.append,
    )

    _check(found)
    assert enqueued == [found["request_id"]]
    last = updates[-1]
    assert isinstance(last, fal_client.Completed)
    assert (last.logs, last.error, last.error_type) == ([], None, None)
    assert last.metrics["inference_time"] > 0


def test_submit_status_and_result_work_with_the_id_alone(
    client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    request_id = client.submit(APP, arguments).request_id
    until(lambda: isinstance(client.status(APP, request_id), fal_client.Completed))
    _check(client.result(APP, request_id))


def test_submit_with_a_priority_is_queued_like_any_other(
    client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    _check(client.submit(APP, arguments, priority="low").get(interval=INTERVAL_S))


def test_plain_endpoint_serves_the_fal_client(
    client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    body = {"prompt": "a", "images": arguments["image_urls"], "size": "512*512", "seed": 7}
    _check(client.submit("qwen_image_edit_plus", body).get(interval=INTERVAL_S))


def test_cancel_ends_a_waiting_and_a_running_request(
    server: LiveServer, client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    running = client.submit(APP, arguments | LONG)
    until(lambda: isinstance(running.status(), fal_client.InProgress))
    waiting = client.submit(APP, arguments)
    assert waiting.status() == fal_client.Queued(position=0)

    waiting.cancel()
    client.cancel(APP, running.request_id)

    for handle in (waiting, running):
        with pytest.raises(fal_client.FalClientHTTPError, match="was cancelled") as caught:
            handle.get(interval=INTERVAL_S)
        assert (caught.value.status_code, caught.value.error_type) == (410, "CANCELED")
        assert _native_status(server, handle.request_id) == "canceled"


def test_client_timeout_cancels_the_request(
    server: LiveServer, client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    with pytest.raises(fal_client.FalClientTimeoutError) as caught:
        client.subscribe(APP, arguments | LONG, interval=INTERVAL_S, client_timeout=5)
    request_id = caught.value.request_id
    assert request_id
    assert until(lambda: _native_status(server, request_id) == "canceled")


def test_events_go_from_queued_through_in_progress_to_completed(
    client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    ahead = client.submit(APP, arguments | LONG)
    updates = []
    for update in client.submit(APP, arguments).iter_events(with_logs=True, interval=INTERVAL_S):
        if not updates:
            ahead.cancel()
        updates.append(update)
    assert _names(updates) == ["Queued", "InProgress", "Completed"]


def test_failed_request_raises_its_message_without_retries(
    client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    handle = client.submit(APP, arguments | {"image_urls": ["http://127.0.0.1:9/cat.png"]})
    *_, last = handle.iter_events(interval=INTERVAL_S)
    assert isinstance(last, fal_client.Completed)
    assert last.error_type == "REQUEST_INVALID"
    asked: list[str] = []
    client._client.event_hooks["request"].append(lambda sent: asked.append(str(sent.url)))

    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        handle.get(interval=INTERVAL_S)

    assert caught.value.message == last.error
    assert "http://127.0.0.1:9/cat.png is refused" in caught.value.message
    assert (caught.value.status_code, caught.value.error_type) == (422, "REQUEST_INVALID")
    # The client retries 408, 409 and 429 ten times.
    assert asked.count(handle.response_url) == 1


def test_rejected_submit_names_the_field(
    client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        client.submit(APP, arguments | {"num_images": 5})
    assert caught.value.status_code == 422
    assert caught.value.message[0]["loc"] == ["body", "num_images"]


def test_unknown_app_raises_not_found(
    client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    with pytest.raises(fal_client.FalClientHTTPError, match="App not found: fal-ai/flux"):
        client.submit("fal-ai/flux", arguments)


@pytest.mark.parametrize("prefix", ["/run/", "/"])
def test_run_returns_the_result(
    server: LiveServer,
    client: fal_client.SyncClient,
    arguments: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
    prefix: str,
) -> None:
    monkeypatch.setattr(fal_client.client, "RUN_URL_FORMAT", server.url + prefix)
    _check(client.run(APP, arguments))


def test_run_returns_the_image_itself_in_sync_mode(
    client: fal_client.SyncClient, arguments: dict[str, Any]
) -> None:
    [image] = client.run(APP, arguments | {"sync_mode": True, "output_format": "jpeg"})["images"]
    head, _, data = image["url"].partition(",")
    assert head == "data:image/jpeg;base64"
    assert PIL.Image.open(io.BytesIO(base64.b64decode(data))).format == "JPEG"


def test_failed_run_raises(client: fal_client.SyncClient, arguments: dict[str, Any]) -> None:
    with pytest.raises(fal_client.FalClientHTTPError, match="is refused") as caught:
        client.run(APP, arguments | {"image_urls": ["http://127.0.0.1:9/cat.png"]})
    assert caught.value.error_type == "REQUEST_INVALID"


def test_root_accepts_a_submit_with_a_priority(
    server: LiveServer,
    client: fal_client.SyncClient,
    arguments: dict[str, Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """fal's JavaScript client always sends the priority."""
    monkeypatch.setattr(fal_client.client, "QUEUE_URL_FORMAT", f"{server.url}/")
    handle = client.submit(APP, arguments, priority="normal")
    _check(client.result(APP, handle.request_id))


async def test_async_subscribe_runs_an_edit(
    async_client: fal_client.AsyncClient, arguments: dict[str, Any]
) -> None:
    updates: list[fal_client.Status] = []
    found = await async_client.subscribe(
        APP, arguments, with_logs=True, interval=INTERVAL_S, on_queue_update=updates.append
    )
    _check(found)
    assert isinstance(updates[-1], fal_client.Completed)


async def test_async_submit_streams_events_and_returns_the_result(
    async_client: fal_client.AsyncClient, arguments: dict[str, Any]
) -> None:
    handle = await async_client.submit(APP, arguments)
    updates = [update async for update in handle.iter_events(interval=INTERVAL_S)]
    assert _names(updates)[-1] == "Completed"
    _check(await async_client.result(APP, handle.request_id))


async def test_async_cancel_ends_the_request(
    server: LiveServer, async_client: fal_client.AsyncClient, arguments: dict[str, Any]
) -> None:
    handle = await async_client.submit(APP, arguments | LONG)
    await async_client.cancel(APP, handle.request_id)
    with pytest.raises(fal_client.FalClientHTTPError, match="was cancelled"):
        await handle.get(interval=INTERVAL_S)
    assert _native_status(server, handle.request_id) == "canceled"


async def test_async_run_returns_the_result_and_raises_on_failure(
    async_client: fal_client.AsyncClient, arguments: dict[str, Any]
) -> None:
    _check(await async_client.run(APP, arguments))
    with pytest.raises(fal_client.FalClientHTTPError, match="is refused"):
        await async_client.run(APP, arguments | {"image_urls": ["http://127.0.0.1:9/cat.png"]})
