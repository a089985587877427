"""The body of a request and a pool of decoders, shared by the tests of the server."""

from collections.abc import Iterator
from typing import Any

import pytest

from server.media.decoder_pool import DecoderPool


@pytest.fixture
def decoders() -> Iterator[DecoderPool]:
    """Decoders as the server has them."""
    pool = DecoderPool()
    yield pool
    pool.close()


@pytest.fixture
def body(image_base64: str) -> dict[str, Any]:
    """A request that the native contract and WaveSpeed's take."""
    return {"prompt": "make it blue", "images": [image_base64], "seed": 1}
