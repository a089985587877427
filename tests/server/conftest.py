"""The body of a request, shared by the tests of the server."""

from typing import Any

import pytest


@pytest.fixture
def body(image_base64: str) -> dict[str, Any]:
    """A request that the native contract and WaveSpeed's take."""
    return {"prompt": "make it blue", "images": [image_base64], "seed": 1}
