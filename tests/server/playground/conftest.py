"""One server with the page, shared by all tests of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.files.architecture import read_linears
from tests.live_server import LiveServer, until
from tests.lora_files import random_pairs, write_lora


@pytest.fixture(scope="package")
def page_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with the page, two LoRAs and a fake worker; it may fetch from this machine."""
    server = LiveServer(
        tiny_model, tmp_path_factory.mktemp("page"), PAGE="true", ALLOW_NETWORKS="127.0.0.0/8"
    )
    linears = read_linears(tiny_model)
    for seed, name in enumerate(("sepia", "outline")):
        pairs = random_pairs(linears, list(linears)[:4], seed=seed)
        write_lora(server.weights_dir / "loras" / f"{name}.safetensors", pairs)
    try:
        yield with_page(server.start())
    finally:
        server.close()


def with_page(server: LiveServer) -> LiveServer:
    """Wait for the page of a server, and return the server."""
    until(lambda: "the page is ready" in server.log())
    return server
