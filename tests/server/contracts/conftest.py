"""A server with the keys of two owners and an admin."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.live_server import LiveServer, live_server
from tests.server.contracts.owners import KEYS


@pytest.fixture(scope="module")
def keyed(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    with live_server(tiny_model, tmp_path_factory.mktemp("owners"), API_KEYS=KEYS) as running:
        yield running
