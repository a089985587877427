"""WaveSpeed's history, deletion, balance, models and prices on a live server."""

import base64
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import jsonschema_rs
import pytest
import wavespeed

from tests.live_server import LONG, LiveServer, until

PREFIX = "wavespeed-ai/qwen-image"
MODELS = [
    f"{PREFIX}/{name}" for name in ("edit-plus-lora", "edit-plus", "edit-2511", "edit-2511-lora")
]
HISTORY = "/api/v3/predictions"


@pytest.fixture(scope="module")
def server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server whose history contains only the predictions of this module."""
    running = LiveServer(tiny_model, tmp_path_factory.mktemp("account"))
    yield running.start()
    running.close()


def submit(server: LiveServer, body: dict[str, Any], model: str = MODELS[0]) -> dict[str, Any]:
    answer = server.http.post(f"{server.url}/api/v3/{model}", json=body)
    assert answer.status_code == 200, answer.text
    data: dict[str, Any] = answer.json()["data"]
    return data


def result(server: LiveServer, data: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = server.http.get(f"{server.url}{HISTORY}/{data['id']}").json()["data"]
    return found


def run(server: LiveServer, body: dict[str, Any], model: str = MODELS[0]) -> dict[str, Any]:
    data = submit(server, body, model)
    until(lambda: result(server, data)["status"] in ("completed", "failed"))
    return result(server, data)


def post(server: LiveServer, path: str, body: Any) -> httpx2.Response:
    return server.http.post(server.url + path, json=body)


def history(server: LiveServer, **body: Any) -> dict[str, Any]:
    answer = post(server, HISTORY, body)
    assert answer.status_code == 200, answer.text
    assert "error" not in answer.json()
    data: dict[str, Any] = answer.json()["data"]
    return data


def ids(found: dict[str, Any]) -> list[str]:
    return [item["id"] for item in found["items"]]


def delete(server: LiveServer, *wanted: str) -> int:
    answer = post(server, f"{HISTORY}/delete", {"ids": list(wanted)})
    assert answer.status_code == 200, answer.text
    count: int = answer.json()["data"]["deleted_count"]
    return count


@pytest.fixture(scope="module")
def three(server: LiveServer, image_base64: str) -> list[dict[str, Any]]:
    """Return a completed, a failed and a completed prediction, in this order."""
    body = {"prompt": "make it blue", "images": [image_base64], "seed": 1}
    return [
        run(server, body),
        run(server, body | {"images": ["http://127.0.0.1:9/cat.png"]}, MODELS[1]),
        run(server, body | {"size": "256*320", "enable_base64_output": True}, MODELS[2]),
    ]


def test_history_is_newest_first(server: LiveServer, three: list[dict[str, Any]]) -> None:
    found = history(server)
    assert list(found) == ["page", "items", "total"]
    assert [item for item in ids(found) if item in {data["id"] for data in three}] == [
        data["id"] for data in reversed(three)
    ]
    assert found["total"] >= 3


def test_history_item_is_the_prediction(server: LiveServer, three: list[dict[str, Any]]) -> None:
    items = {item["id"]: item for item in history(server, page_size=100)["items"]}
    assert items[three[0]["id"]] == three[0]
    assert items[three[1]["id"]] == three[1]


def test_history_lists_outputs_as_urls_when_base64_was_requested(
    server: LiveServer, three: list[dict[str, Any]]
) -> None:
    items = {item["id"]: item for item in history(server, page_size=100)["items"]}
    (url,) = items[three[2]["id"]]["outputs"]
    assert base64.b64encode(httpx2.get(url).content).decode() == three[2]["outputs"][0]


def test_history_pages_list_each_prediction_once(
    server: LiveServer, three: list[dict[str, Any]]
) -> None:
    everything = ids(history(server, page_size=100))
    pages = [history(server, page=page, page_size=2) for page in range(1, 4)]
    assert [page["page"] for page in pages] == [1, 2, 3]
    assert [found for page in pages for found in ids(page)] == everything[:6]
    assert history(server, page=10**6)["items"] == []


def test_history_filters_by_model(server: LiveServer, three: list[dict[str, Any]]) -> None:
    assert ids(history(server, model=MODELS[1])) == [three[1]["id"]]
    assert history(server, model="nobody/else")["total"] == 0


def test_history_filters_by_status(server: LiveServer, three: list[dict[str, Any]]) -> None:
    failed = history(server, status="failed", page_size=100)
    completed = history(server, status="completed", page_size=100)
    assert three[1]["id"] in ids(failed)
    assert {item["status"] for item in failed["items"]} == {"failed"}
    assert {three[0]["id"], three[2]["id"]} <= set(ids(completed))
    assert {item["status"] for item in completed["items"]} == {"completed"}


def test_history_filters_by_time(server: LiveServer, three: list[dict[str, Any]]) -> None:
    moments = [data["created_at"] for data in three]
    after = ids(history(server, created_after=moments[1], page_size=100))
    before = ids(history(server, created_before=moments[1], page_size=100))
    between = history(server, created_after=moments[1], created_before=moments[2])
    assert three[0]["id"] not in after
    assert three[2]["id"] in after
    assert three[0]["id"] in before
    assert three[2]["id"] not in before
    # Times are truncated to whole milliseconds.
    assert three[1]["id"] in ids(between)


def test_history_time_is_utc_without_a_zone(
    server: LiveServer, three: list[dict[str, Any]]
) -> None:
    with_zone = history(server, created_after=three[1]["created_at"])["total"]
    without = history(server, created_after=three[1]["created_at"].removesuffix("Z"))["total"]
    assert with_zone == without


def test_history_includes_inputs_when_requested(
    server: LiveServer, three: list[dict[str, Any]]
) -> None:
    assert all("inputs" not in item for item in history(server)["items"])
    items = history(server, include_inputs=True, page_size=100)["items"]
    inputs = {item["id"]: item["inputs"] for item in items}
    assert inputs[three[1]["id"]]["prompt"] == "make it blue"
    assert inputs[three[1]["id"]]["images"] == ["http://127.0.0.1:9/cat.png"]
    # Inline images are not stored.
    assert inputs[three[2]["id"]]["images"] == ["(inline)"]
    assert inputs[three[2]["id"]]["size"] == "256*320"


def test_history_omits_jobs_of_other_contracts(server: LiveServer, image_base64: str) -> None:
    native = post(server, "/v1/edits", {"prompt": "a", "images": [image_base64]}).json()
    assert native["id"] not in ids(history(server, page_size=100))
    assert delete(server, native["id"]) == 0
    assert server.http.get(f"{server.url}/v1/edits/{native['id']}").status_code == 200


@pytest.mark.parametrize(
    ("body", "place"),
    [
        ({"page": 0}, "/page"),
        ({"page": 10**12}, "/page"),
        ({"page_size": 0}, "/page_size"),
        ({"page_size": 101}, "/page_size"),
        ({"status": "weird"}, "/status"),
        ({"created_after": "yesterday"}, "/created_after"),
        ({"created_before": []}, "/created_before"),
    ],
)
def test_bad_filter_returns_400_and_is_named(
    server: LiveServer, body: dict[str, Any], place: str
) -> None:
    answer = post(server, HISTORY, body)
    assert answer.status_code == 400
    assert f'Error at "{place}"' in answer.json()["error"]


def test_delete_removes_prediction_and_files(server: LiveServer, body: dict[str, Any]) -> None:
    """Rule 7: a deleted id returns 404."""
    first, second = run(server, body), run(server, body)
    names = [data["outputs"][0].rpartition("/")[2] for data in (first, second)]

    assert delete(server, first["id"], "0" * 32, first["id"]) == 1

    assert server.http.get(first["urls"]["get"]).status_code == 404
    assert server.http.get(first["outputs"][0]).status_code == 404
    assert not (server.data_dir / "outputs" / names[0]).exists()
    assert (server.data_dir / "outputs" / names[1]).exists()
    assert first["id"] not in ids(history(server, page_size=100))
    assert delete(server, first["id"]) == 0


def test_delete_cancels_and_hides_unfinished_predictions_at_once(
    server: LiveServer, body: dict[str, Any]
) -> None:
    running, waiting = (submit(server, body | LONG) for _ in range(2))
    until(lambda: result(server, running)["status"] == "processing")
    folders = [server.data_dir / "inputs" / data["id"] for data in (running, waiting)]
    assert all(folder.exists() for folder in folders)

    assert delete(server, running["id"], waiting["id"]) == 2

    for data in (running, waiting):
        assert server.http.get(data["urls"]["get"]).status_code == 404
        assert data["id"] not in ids(history(server, page_size=100))
    # The worker stops at its next step; only then are the files removed.
    until(lambda: not any(folder.exists() for folder in folders))
    until(lambda: server.http.get(f"{server.url}/v1/edits/{running['id']}").status_code == 404)
    assert run(server, body)["status"] == "completed"


@pytest.mark.parametrize("body", [{}, {"ids": []}, {"ids": "x"}, {"ids": [1]}])
def test_bad_deletion_returns_400(server: LiveServer, body: dict[str, Any]) -> None:
    answer = post(server, f"{HISTORY}/delete", body)
    assert answer.status_code == 400
    assert 'Error at "/ids' in answer.json()["error"]


@pytest.mark.parametrize(
    ("path", "body", "place"),
    [
        (HISTORY, rb'{"model": "half\ud800"}', "/model"),
        (f"{HISTORY}/delete", rb'{"ids": ["half\ud800"]}', "/ids/0"),
        ("/api/v3/media/uploads", rb'{"filename": "half\ud800", "size": 1}', "/filename"),
    ],
)
def test_half_a_surrogate_pair_is_refused(
    server: LiveServer, path: str, body: bytes, place: str
) -> None:
    headers = {"Content-Type": "application/json"}
    answer = server.http.post(server.url + path, content=body, headers=headers)
    assert answer.status_code == 400, answer.text
    assert f'Error at "{place}"' in answer.json()["error"]


def test_predictions_expire_from_disk(
    start_server: Callable[..., LiveServer], body: dict[str, Any]
) -> None:
    server = start_server(KEEP_OUTPUTS_H=1e-6)
    data = run(server, body)
    outputs = server.data_dir / "outputs"
    assert list(outputs.iterdir())

    server.stop()
    server.start(wait_ready=False)

    until(lambda: not list(outputs.iterdir()))
    assert server.http.get(f"{server.url}{HISTORY}/{data['id']}").status_code == 404


@pytest.mark.parametrize("model", MODELS)
def test_every_model_id_is_served_and_echoed(
    server: LiveServer, body: dict[str, Any], model: str
) -> None:
    client = wavespeed.Client(api_key="any", base_url=server.url)
    assert client.run(model, body, poll_interval=0.05)["outputs"]
    assert submit(server, body, model)["model"] == model


def request_schema(server: LiveServer) -> dict[str, Any]:
    models = server.http.get(f"{server.url}/api/v3/models").json()["data"]
    schema: dict[str, Any] = models[0]["api_schema"]["api_schemas"][0]["request_schema"]
    return schema


def test_models_have_the_fields_that_clients_read(server: LiveServer) -> None:
    answer = server.http.get(f"{server.url}/api/v3/models")
    assert answer.status_code == 200
    models = answer.json()["data"]
    assert [model["model_id"] for model in models] == MODELS
    for model in models:
        assert list(model) == [
            *("model_id", "name", "description", "type", "base_price", "sort_order", "formula"),
            "api_schema",
        ]
        (run_schema,) = model["api_schema"]["api_schemas"]
        assert (run_schema["type"], run_schema["method"]) == ("model_run", "POST")
        assert run_schema["server"] == server.url
        assert run_schema["api_path"] == f"/api/v3/{model['model_id']}"


def test_model_schema_lists_its_properties_in_order_without_references(
    server: LiveServer,
) -> None:
    schema = request_schema(server)
    assert list(schema)[:4] == ["type", "properties", "required", "x-order-properties"]
    assert schema["required"] == ["prompt", "images"]
    assert schema["x-order-properties"][:5] == ["prompt", "images", "size", "loras", "seed"]
    assert set(schema["x-order-properties"]) == set(schema["properties"])
    assert "$ref" not in str(schema)
    assert jsonschema_rs.meta.is_valid(schema)


CHANGES: list[dict[str, Any]] = [
    {},
    {"size": "256*256"},
    {"loras": []},
    {"seed": -1},
    {"output_format": "webp", "enable_base64_output": True},
    {"num_inference_steps": 2, "guidance_scale": 1.0, "negative_prompt": "dark"},
    {"images": []},
    {"prompt": ""},
    {"seed": -2},
    {"seed": 2**31},
    {"output_format": "gif"},
    {"loras": [{"path": "a", "scale": 4.1}]},
    {"loras": [{"scale": 1.0}]},
    {"loras": [{"path": "a"}] * 4},
    {"images": ["aGVsbG8="] * 4},
    {"num_inference_steps": 1},
    {"guidance_scale": 21},
    {"enable_sync_mode": "perhaps"},
]


@pytest.mark.parametrize("change", CHANGES)
def test_model_schema_accepts_exactly_the_bodies_that_submit_accepts(
    server: LiveServer, body: dict[str, Any], change: dict[str, Any]
) -> None:
    wanted = body | change
    is_valid = jsonschema_rs.Draft202012Validator(request_schema(server)).is_valid(wanted)
    answer = post(server, f"/api/v3/{MODELS[0]}", wanted)
    assert (answer.status_code == 200) == is_valid, answer.text


def test_price_is_zero_in_both_forms(server: LiveServer) -> None:
    asked = {"model_id": MODELS[0], "inputs": {"prompt": "a"}}
    assert post(server, "/api/v3/model/price", asked).json()["data"] == {
        "model_id": MODELS[0],
        "price": 0,
        "discounted_price": 0,
        "currency": "USD",
    }
    legacy = post(server, "/api/v3/model/pricing", {"model_id": MODELS[1]})
    assert legacy.json()["data"] == {"model_id": MODELS[1], "unit_price": 0, "currency": "USD"}


@pytest.mark.parametrize("path", ["/api/v3/model/price", "/api/v3/model/pricing"])
def test_price_of_an_unknown_model_returns_400(server: LiveServer, path: str) -> None:
    answer = post(server, path, {"model_id": "nobody/else", "inputs": {}})
    assert answer.status_code == 400
    assert "there is no model 'nobody/else'" in answer.json()["error"]


def test_balance_is_a_number(server: LiveServer) -> None:
    answer = server.http.get(f"{server.url}/api/v3/balance")
    assert answer.status_code == 200
    assert answer.json()["data"] == {"balance": 0}


def test_webhook_secret_is_generated_once_and_readable_only_by_its_owner(
    start_server: Callable[..., LiveServer],
) -> None:
    server = start_server(wait_ready=False)
    url = "/api/v3/webhook/secret"
    secret = server.http.get(server.url + url).json()["data"]["secret"]
    path = server.data_dir / "webhook_secret"

    server.kill()
    server.start(wait_ready=False)

    assert secret.startswith("whsec_")
    assert len(secret) > 40
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert server.http.get(server.url + url).json()["data"]["secret"] == secret


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/api/v3/balance"),
        ("GET", "/api/v3/models"),
        ("GET", "/api/v3/webhook/secret"),
        ("POST", "/api/v3/predictions"),
        ("POST", "/api/v3/predictions/delete"),
        ("POST", "/api/v3/model/price"),
        ("POST", "/api/v3/model/pricing"),
    ],
)
def test_account_needs_the_key(keyed_server: LiveServer, method: str, path: str) -> None:
    answer = keyed_server.http.request(method, keyed_server.url + path, json={})
    assert answer.status_code == 401
    assert answer.json()["code"] == 401


@pytest.fixture(scope="module")
def keyed_server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    server = LiveServer(
        tiny_model, tmp_path_factory.mktemp("keyed"), API_KEYS="right-key-for-tests"
    )
    yield server.start(wait_ready=False)
    server.close()
