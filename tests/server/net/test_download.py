"""One resuming GET: restarts, retries and limits."""

import asyncio
import socket
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx2
import pytest

from server.net.download import RETRY_PAUSES_S, BodyTooLarge, Download, http_get
from tests.far_side import Answer, FarSide, far_side


@pytest.fixture(scope="module")
def far() -> Iterator[FarSide]:
    """A server that ignores ranges."""
    with far_side() as server:
        yield server


@pytest.fixture
async def client() -> AsyncIterator[httpx2.AsyncClient]:
    async with httpx2.AsyncClient() as client:
        yield client


async def test_download_starts_over_when_the_server_ignores_the_range(
    far: FarSide, client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    partial, sizes = tmp_path / "a", list[int]()
    partial.write_bytes(b"the be")
    far.answers["/a"] = Answer(b"the body")

    wanted = Download(far.url("/a"), partial, 100, is_immutable=True, on_size=sizes.append)
    await http_get(client, wanted)

    assert far.requests[-1][1]["Range"] == "bytes=6-"
    assert partial.read_bytes() == b"the body"
    assert sizes == [0, 8]


async def test_partial_file_without_a_validator_is_not_resumed(
    far: FarSide, client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    partial = tmp_path / "a"
    partial.write_bytes(b"other")
    far.answers["/a"] = Answer(b"the body")

    await http_get(client, Download(far.url("/a"), partial, 100))

    assert "Range" not in far.requests[-1][1]
    assert partial.read_bytes() == b"the body"


async def test_address_that_gives_no_byte_is_not_retried(
    client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"
        wanted = Download(url, tmp_path / "a", 100)

        async with asyncio.timeout(RETRY_PAUSES_S[-1]):
            with pytest.raises(httpx2.ConnectError):
                await http_get(client, wanted)


async def test_body_over_the_limit_is_discarded(
    far: FarSide, client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    far.answers["/a"] = Answer(b"the body", headers={"ETag": '"1"'})

    with pytest.raises(BodyTooLarge):
        await http_get(client, Download(far.url("/a"), tmp_path / "a", 7))

    assert list(tmp_path.iterdir()) == []


async def test_other_status_than_200_is_raised_with_the_response(
    far: FarSide, client: httpx2.AsyncClient, tmp_path: Path
) -> None:
    with pytest.raises(httpx2.HTTPStatusError, match="answered 404") as caught:
        await http_get(client, Download(far.url("/absent"), tmp_path / "a", 100))

    assert caught.value.response.status_code == 404
