"""Fixtures of OpenAI's contract: the SDK's client, LoRAs, a server with a key."""

from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.live_server import LiveServer, live_server
from tests.lora_files import random_pairs, write_lora


@pytest.fixture
def client(server: LiveServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(api_key="any", base_url=f"{server.url}/v1") as client:
        yield client


@pytest.fixture
def styles(server: LiveServer) -> tuple[str, str]:
    """Two LoRAs that change the image."""
    linears = {"transformer_blocks.0.attn.to_q": (64, 64), "proj_out": (64, 64)}
    for seed, name in enumerate(("openai-a", "openai-b")):
        path = server.weights_dir / "loras" / f"{name}.safetensors"
        if not path.exists():
            write_lora(path, random_pairs(linears, list(linears), seed=seed))
    return "openai-a", "openai-b"


@pytest.fixture(scope="package")
def keyed_server(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("keyed-openai")
    with live_server(tiny_model, folder, API_KEYS="right-key-for-tests") as running:
        yield running
