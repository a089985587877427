"""Sampling profiles over a live server: what requests ask for, and what LoRAs bring."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest

from tests.live_server import LiveServer, live_server
from tests.lora_files import random_pairs, write_lora
from tests.server.contracts.owners import FAL_MODELS, OPENAI, WAVESPEED, body_of

FOUR = "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors"
LAYER = "transformer_blocks.0.attn.to_q"
LINEARS = {LAYER: (64, 64)}
MADE_FOR = f"{FOUR} is made for 4 steps; the request asks for 6."


@pytest.fixture(scope="module")
def fast_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with a few-step LoRA, and one whose sidecar is broken."""
    with live_server(tiny_model, tmp_path_factory.mktemp("fast")) as server:
        folder = server.weights_dir / "loras"
        pairs = random_pairs(LINEARS, [LAYER])
        write_lora(folder / FOUR, pairs)
        write_lora(folder / "own.safetensors", pairs)
        own = {"steps": 5, "true_cfg_scale": 1.5, "sigmas": None, "shift": 2}
        (folder / "own.json").write_text(json.dumps({"qwen_edit": {"sampling": own}}))
        write_lora(folder / "broken.safetensors", pairs)
        (folder / "broken.json").write_text(json.dumps({"qwen_edit": {"sampling": {"steps": 1}}}))
        yield server


def edit(server: LiveServer, body: dict[str, Any], **fields: Any) -> dict[str, Any]:
    answer = server.http.post(f"{server.url}/v1/edits?wait=60", json=body | fields)
    assert answer.status_code == 201, answer.text
    found: dict[str, Any] = answer.json()
    assert found["status"] == "succeeded", found
    return found


def refusal(server: LiveServer, body: dict[str, Any], **fields: Any) -> tuple[int, str, str]:
    answer = server.http.post(f"{server.url}/v1/edits", json=body | fields)
    error = answer.json()["error"]
    return answer.status_code, error["field"], error["message"]


def lora(name: str, scale: float = 1.0) -> list[dict[str, Any]]:
    return [{"path": name, "scale": scale}]


def test_lightning_sets_what_the_request_leaves_open(
    fast_server: LiveServer, body: dict[str, Any]
) -> None:
    found = edit(fast_server, body, loras=lora(FOUR))

    sampling = found["sampling"]
    assert (found["steps"], sampling["steps"], sampling["true_cfg_scale"]) == (4, 4, 1.0)
    assert (sampling["shift"], sampling["shift_terminal"]) == (3.0, None)
    assert set(sampling["source"].values()) == {"lora"}
    assert len(sampling["sigmas"]) == 4
    assert found["warnings"] == []
    assert "4 steps, CFG 1, shift 3, no terminal" in fast_server.log()


def test_contradiction_runs_as_asked_and_is_said(
    fast_server: LiveServer, body: dict[str, Any]
) -> None:
    found = edit(fast_server, body, loras=lora(FOUR), num_inference_steps=6)

    assert found["sampling"]["steps"] == 6
    assert found["sampling"]["source"]["steps"] == "request"
    assert found["warnings"] == [MADE_FOR]
    assert MADE_FOR in fast_server.log()


def test_sidecar_of_a_lora_is_its_profile(fast_server: LiveServer, body: dict[str, Any]) -> None:
    sampling = edit(fast_server, body, loras=lora("own"))["sampling"]

    assert (sampling["steps"], sampling["true_cfg_scale"], sampling["shift"]) == (5, 1.5, 2.0)
    assert sampling["source"]["shift_terminal"] == "scheduler"


def test_broken_sidecar_refuses_the_request_by_name(
    fast_server: LiveServer, body: dict[str, Any]
) -> None:
    status, field, message = refusal(fast_server, body, loras=lora("broken"))

    assert (status, field) == (400, "loras/0/path")
    assert "sampling of qwen_edit in broken.json beside broken.safetensors" in message
    assert "steps must be between 2 and 100, got 1" in message


def test_request_gives_sigmas_in_json_and_in_a_form(
    fast_server: LiveServer, body: dict[str, Any]
) -> None:
    given = {"sigmas": [1.0, 0.5, 0.25], "true_cfg_scale": 2}
    by_json = edit(fast_server, body, sampling=given)
    form = {key: value for key, value in body.items() if key != "images"}
    answer = fast_server.http.post(
        f"{fast_server.url}/v1/edits?wait=60",
        data=form | {"sampling": json.dumps(given)},
        files=[("images", (None, body["images"][0]))],
    )

    assert answer.status_code == 201, answer.text
    for found in (by_json, answer.json()):
        assert found["sampling"]["sigmas"] == [1.0, 0.5, 0.25]
        assert found["sampling"]["source"] == dict.fromkeys(
            ("sigmas", "steps", "true_cfg_scale"), "request"
        )


@pytest.mark.parametrize(
    ("fields", "field", "message"),
    [
        ({"sampling": {"steps": 1}}, "sampling/steps", "greater than or equal to 2"),
        ({"sampling": {"sigmas": [0.5, 1]}}, "sampling", "must fall from at most 1"),
        ({"sampling": {"step": 4}}, "sampling/step", "Extra inputs are not permitted"),
        ({"sampling": {"steps": 4}}, "num_inference_steps", "must be equal, or one of them absent"),
        ({"sampling": {"sigmas": [1, 0.5]}}, "sigmas", "cannot be combined with steps"),
    ],
)
def test_impossible_sampling_is_named(
    fast_server: LiveServer,
    body: dict[str, Any],
    fields: dict[str, Any],
    field: str,
    message: str,
) -> None:
    status, found, text = refusal(fast_server, body | {"num_inference_steps": 3}, **fields)

    assert (status, found) == (400, field), text
    assert message in text


@pytest.mark.parametrize("path", [WAVESPEED, OPENAI, f"/run{FAL_MODELS[0]}"])
def test_other_contracts_say_warnings_in_a_header(fast_server: LiveServer, path: str) -> None:
    body = body_of(path) | {"loras": lora(FOUR), "num_inference_steps": 6}
    if path == WAVESPEED:
        body["enable_sync_mode"] = True
    answer: httpx2.Response = fast_server.http.post(fast_server.url + path, json=body)

    assert answer.status_code == 200, answer.text
    assert json.loads(answer.headers["x-qwen-edit-warnings"]) == [MADE_FOR]


def test_finished_image_names_its_sampling(fast_server: LiveServer, body: dict[str, Any]) -> None:
    [output] = edit(fast_server, body, loras=lora(FOUR))["outputs"]

    data = fast_server.http.get(output["url"]).content
    assert b"4 steps, CFG 1, shift 3, no terminal" in data


def test_profile_of_a_lora_is_shown_before_it_is_used(fast_server: LiveServer) -> None:
    http, url = fast_server.http, fast_server.url
    items = {each["name"]: each for each in http.get(f"{url}/v1/loras").json()["items"]}
    view = http.get(f"{url}/v1/loras/{FOUR}").json()

    lightning = {"steps": 4, "true_cfg_scale": 1.0, "shift": 3.0, "shift_terminal": None}
    assert view["profile"] == {"sampling": lightning, "is_guess": False}
    assert items[FOUR]["profile"] == view["profile"]
    assert items["broken.safetensors"]["profile"] is None
    problem = http.get(f"{url}/v1/loras/broken.safetensors").json()["problem"]
    assert "steps must be between 2 and 100, got 1" in problem
