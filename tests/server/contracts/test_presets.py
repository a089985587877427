"""Presets over a live server: in every contract, by the provider's own way to name a model."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, live_server
from tests.lora_files import random_pairs, write_lora
from tests.server.contracts.owners import FAL_MODELS, OPENAI, WAVESPEED, body_of

FOUR = "Qwen-Image-Edit-2511-Lightning-4steps-V1.0-bf16.safetensors"
LAYER = "transformer_blocks.0.attn.to_q"
ANIME = """
title = "Anime"
prompt_suffix = "anime style"

[[loras]]
path = "style"
scale = 0.5

[sampling]
steps = 5
"""
FAL = FAL_MODELS[0]
UNKNOWN = "There is no preset 'nothing'. Found: anime, broken, lightning."


@pytest.fixture(scope="module")
def preset_server(
    tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LiveServer]:
    """A server with two presets, one of them broken, and a Lightning LoRA."""
    with live_server(tiny_model, tmp_path_factory.mktemp("presets")) as server:
        pairs = random_pairs({LAYER: (64, 64)}, [LAYER])
        write_lora(server.weights_dir / "loras" / FOUR, pairs)
        # for a wider model
        wide = random_pairs({LAYER: (128, 128)}, [LAYER])
        write_lora(server.weights_dir / "loras" / "Qwen-Image-Lightning-2steps.safetensors", wide)
        write_lora(server.weights_dir / "loras" / "style.safetensors", pairs)
        folder = server.weights_dir / "presets"
        folder.mkdir()
        (folder / "anime.toml").write_text(ANIME)
        (folder / "broken.toml").write_text("[sampling]\nsteps = 1")
        yield server


def newest(server: LiveServer) -> dict[str, Any]:
    [job] = server.http.get(f"{server.url}/v1/edits?limit=1").json()["items"]
    found: dict[str, Any] = server.http.get(f"{server.url}/v1/edits/{job['id']}").json()
    return found


def test_presets_are_listed_with_their_faults(preset_server: LiveServer) -> None:
    items = preset_server.http.get(f"{preset_server.url}/v1/presets").json()["items"]

    assert [(each["name"], each["title"]) for each in items] == [
        ("anime", "Anime"),
        ("broken", "broken"),
        ("lightning", "Lightning: 4 steps, CFG 1, shift 3, no terminal"),
    ]
    assert "steps must be between 2 and 100, got 1" in items[1]["problem"]
    assert items[0]["problem"] is items[2]["problem"] is None


def test_presets_are_models_of_the_contracts_that_list_models(preset_server: LiveServer) -> None:
    http, url = preset_server.http, preset_server.url
    openai = [each["id"] for each in http.get(f"{url}/v1/models").json()["data"]]
    wavespeed = [each["model_id"] for each in http.get(f"{url}/api/v3/models").json()["data"]]

    assert openai == ["tiny", "qwen-edit:anime", "qwen-edit:lightning"]
    assert http.get(f"{url}/v1/models/qwen-edit:anime").json()["id"] == "qwen-edit:anime"
    own = "wavespeed-ai/qwen-image/edit-plus-lora"
    assert wavespeed[-2:] == [f"{own}/anime", f"{own}/lightning"]
    price = http.post(f"{url}/api/v3/model/price", json={"model_id": f"{own}/anime"})
    assert price.json()["data"]["price"] == 0


@pytest.mark.parametrize(
    ("path", "fields"),
    [
        ("/v1/edits?wait=60", {"preset": "anime"}),
        (OPENAI, {"model": "qwen-edit:anime"}),
        (f"/run{FAL}/anime", {}),
        (f"{FAL}/anime", {}),
        (f"{WAVESPEED}/anime", {"enable_sync_mode": True}),
    ],
)
def test_preset_works_in_every_contract(
    preset_server: LiveServer, path: str, fields: dict[str, Any]
) -> None:
    base = path.removesuffix("?wait=60").removesuffix("/anime")
    body = body_of(base) | fields | {"prompt": "make it so"}
    body.pop("num_inference_steps", None)
    answer = preset_server.http.post(preset_server.url + path, json=body)

    assert answer.status_code in (200, 201), answer.text
    found = newest(preset_server)
    assert (found["status"], found["preset"]) == ("succeeded", "anime")
    assert (found["prompt"], found["used_prompt"]) == ("make it so", "make it so anime style")
    assert found["sampling"]["steps"] == 5
    assert found["sampling"]["source"]["steps"] == "preset"


def test_queued_fal_request_with_a_preset_is_polled_under_its_app(
    preset_server: LiveServer,
) -> None:
    url = f"{preset_server.url}/v1/queue{FAL}/anime"
    submitted = preset_server.http.post(url, json=body_of(FAL)).json()

    assert preset_server.http.get(submitted["status_url"]).status_code in (200, 202)
    assert "/anime/" not in submitted["status_url"]


@pytest.mark.parametrize(
    ("path", "fields", "message"),
    [
        ("/v1/edits", {"preset": "nothing"}, UNKNOWN),
        (OPENAI, {"model": "qwen-edit:nothing"}, UNKNOWN),
        (f"/run{FAL}/nothing", {}, f"App not found: {FAL[1:]}/nothing"),
        (f"/v1/queue{FAL}/nothing", {}, f"App not found: {FAL[1:]}/nothing"),
        (f"{WAVESPEED}/nothing", {}, UNKNOWN),
    ],
)
def test_unknown_preset_is_not_found(
    preset_server: LiveServer, path: str, fields: dict[str, Any], message: str
) -> None:
    body = body_of(path.removesuffix("/nothing")) | fields
    answer = preset_server.http.post(preset_server.url + path, json=body)

    assert answer.status_code == 404, answer.text
    assert message in json.dumps(answer.json(), ensure_ascii=False)


def test_unknown_preset_has_openais_code(preset_server: LiveServer) -> None:
    body = body_of(OPENAI) | {"model": "qwen-edit:nothing"}
    error = preset_server.http.post(preset_server.url + OPENAI, json=body).json()["error"]

    assert (error["code"], error["param"]) == ("model_not_found", "model")


def test_other_model_names_of_openai_pass(preset_server: LiveServer) -> None:
    for model in ("gpt-image-1", "other:anime", "qwen-edit"):
        body = body_of(OPENAI) | {"model": model}
        answer = preset_server.http.post(preset_server.url + OPENAI, json=body)
        assert answer.status_code == 200, answer.text


def test_broken_preset_is_refused_by_name(preset_server: LiveServer, body: dict[str, Any]) -> None:
    answer = preset_server.http.post(
        f"{preset_server.url}/v1/edits", json=body | {"preset": "broken"}
    )

    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["code"] == "preset_invalid"
    assert error["message"].startswith("The preset broken.toml cannot be used: steps must be")


def test_lightning_is_there_without_a_file(preset_server: LiveServer, body: dict[str, Any]) -> None:
    answer = preset_server.http.post(
        f"{preset_server.url}/v1/edits?wait=60", json=body | {"preset": "lightning"}
    )
    found = answer.json()

    assert (found["status"], found["sampling"]["steps"]) == ("succeeded", 4)
    assert found["sampling"]["source"]["shift"] == "lora"


def test_three_loras_together_are_the_most(preset_server: LiveServer, body: dict[str, Any]) -> None:
    loras = [{"path": "style"}] * 3
    answer = preset_server.http.post(
        f"{preset_server.url}/v1/edits", json=body | {"preset": "anime", "loras": loras}
    )

    assert answer.status_code == 400
    assert "at most 3 entries together with the 1 of the preset anime" in answer.text
