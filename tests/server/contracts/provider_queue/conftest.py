"""Fixtures of the provider queue: requests in every state."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.live_server import LONG, LiveServer, until
from tests.server.contracts.provider_queue.client import (
    FAL,
    NOWHERE,
    PLAIN,
    cancel,
    completed,
    status,
    submit,
)


@pytest.fixture(scope="package")
def body(image_base64: str) -> dict[str, Any]:
    return {"prompt": "make it blue", "images": [image_base64], "seed": 1, "size": "512*512"}


@pytest.fixture(scope="package")
def done(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    """Return the submit response of a finished request."""
    answer = submit(server, PLAIN, body)
    completed(server, answer)
    return answer


@pytest.fixture(scope="package")
def failed(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    answer = submit(server, PLAIN, body | NOWHERE)
    completed(server, answer)
    return answer


@pytest.fixture
def running(server: LiveServer, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Keep a request running, so that others wait."""
    answer = submit(server, FAL, body | LONG)
    until(lambda: status(server, answer)["status"] == "IN_PROGRESS")
    yield answer
    cancel(server, answer)
    completed(server, answer)
