"""LoRAs that fit by their names and may be for another model, over live servers."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.live_server import LiveServer, live_server
from tests.lora_files import random_pairs, write_lora

LAYER = "transformer_blocks.0.attn.to_q"
MADE_FOR = {"flux": "flux-1-dev/lora", "untold": "sd_1.5", "own": "qwen-image/lora"}
PEFT = "base_model.model."
UNTOLD = (
    "untold.safetensors names sd_1.5 as its model (ss_base_model_version), which trainers write "
    "when they are told nothing; it may be made for another."
)


def fill(server: LiveServer) -> None:
    pairs = random_pairs({LAYER: (64, 64)}, [LAYER])
    for name, model in MADE_FOR.items():
        path = server.weights_dir / "loras" / f"{name}.safetensors"
        write_lora(path, pairs, metadata={"ss_base_model_version": model})


@pytest.fixture(scope="module")
def lora_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tiny_model, tmp_path_factory.mktemp("loras")) as server:
        fill(server)
        yield server


def post(server: LiveServer, body: dict[str, Any], *loras: dict[str, Any]) -> tuple[int, Any]:
    answer = server.http.post(f"{server.url}/v1/edits?wait=60", json=body | {"loras": loras})
    return answer.status_code, answer.json()


def test_lora_of_another_family_is_refused_by_its_own_metadata(
    lora_server: LiveServer, body: dict[str, Any]
) -> None:
    status, answer = post(lora_server, body, {"path": "flux"})

    assert (status, answer["error"]["field"]) == (400, "loras/0/path")
    assert "flux.safetensors is made for Flux, by its own metadata" in answer["error"]["message"]


def test_lora_that_may_be_of_another_family_runs_with_a_warning(
    lora_server: LiveServer, body: dict[str, Any]
) -> None:
    _, untold = post(lora_server, body, {"path": "untold"}, {"path": "own"})
    _, unused = post(lora_server, body, {"path": "untold", "scale": 0})

    assert (untold["status"], untold["warnings"]) == ("succeeded", [UNTOLD])
    assert unused["warnings"] == []
    assert UNTOLD in lora_server.log()


def test_strict_server_refuses_what_others_warn_of(
    tiny_model: Path, tmp_path: Path, body: dict[str, Any]
) -> None:
    with live_server(tiny_model, tmp_path, STRICT_LORAS="true") as server:
        fill(server)
        status, answer = post(server, body, {"path": "untold"})
        own, _ = post(server, body, {"path": "own"})

    assert (status, own) == (400, 201)
    assert answer["error"]["message"].endswith(f"{UNTOLD} QWEN_EDIT_STRICT_LORAS refuses it.")


def test_file_of_peft_runs_with_the_alpha_of_the_request(
    lora_server: LiveServer, body: dict[str, Any]
) -> None:
    pairs = random_pairs({LAYER: (64, 64)}, [LAYER], rank=4)
    write_lora(lora_server.weights_dir / "loras" / "peft.safetensors", pairs, prefix=PEFT)

    status, refused = post(lora_server, body, {"path": "peft"})
    _, found = post(lora_server, body, {"path": "peft", "alpha": 16})
    twice, wrong = post(lora_server, body, {"path": "own", "alpha": 16})

    assert (status, refused["error"]["field"]) == (400, "loras/0/path")
    assert "give `alpha` beside its path" in refused["error"]["message"]
    assert found["status"] == "succeeded"
    assert (twice, wrong["error"]["field"]) == (400, "loras/0/path")
