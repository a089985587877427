"""Fixtures of WaveSpeed's contract: a body, the SDK's client, a server with keys."""

from collections.abc import Iterator
from typing import Any

import pytest
import wavespeed

from tests.live_server import LiveServer


@pytest.fixture
def client(server: LiveServer) -> wavespeed.Client:
    return wavespeed.Client(api_key="any", base_url=server.url)


@pytest.fixture(scope="package")
def keyed_server(tiny_model: Any, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    folder = tmp_path_factory.mktemp("keyed")
    server = LiveServer(tiny_model, folder, API_KEYS="right-key-for-tests, second-key-for-tests")
    yield server.start()
    server.close()
