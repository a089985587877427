"""Request helpers, without a server."""

import asyncio

import pytest
from fastapi import Request
from starlette.types import Message

from server.errors import InvalidRequest
from server.web.middleware import BASE_URL
from server.web.request import base_url, unless_disconnected, while_connected


class Client:
    """The receiving side of a request whose body has been read."""

    def __init__(self) -> None:
        self.messages: asyncio.Queue[Message] = asyncio.Queue()
        scope = {"type": "http", "headers": [], "state": {BASE_URL: "https://here/edit"}}
        self.request = Request(scope, self.messages.get)

    def disconnect(self) -> None:
        self.messages.put_nowait({"type": "http.disconnect"})


def test_base_url_is_the_one_that_the_middleware_resolved() -> None:
    client = Client()

    assert base_url(client.request) == "https://here/edit"


async def test_result_is_returned_to_a_waiting_client() -> None:
    result: asyncio.Future[str] = asyncio.Future()
    waiting = asyncio.create_task(unless_disconnected(Client().request, result))
    await asyncio.sleep(0)
    result.set_result("done")

    assert await waiting == "done"


async def test_disconnect_ends_the_wait_and_cancels_the_result() -> None:
    client = Client()
    result: asyncio.Future[str] = asyncio.Future()
    waiting = asyncio.create_task(unless_disconnected(client.request, result))
    client.messages.put_nowait({"type": "http.request"})
    client.disconnect()

    assert await waiting is None
    await asyncio.sleep(0)
    assert result.cancelled()


async def test_ready_result_wins_over_a_disconnect() -> None:
    client = Client()
    client.disconnect()
    result: asyncio.Future[str] = asyncio.Future()
    result.set_result("done")

    assert await unless_disconnected(client.request, result) == "done"


async def test_error_of_the_result_is_raised() -> None:
    result: asyncio.Future[str] = asyncio.Future()
    result.set_exception(ValueError("broken"))

    with pytest.raises(ValueError, match="broken"):
        await unless_disconnected(Client().request, result)


async def test_disconnect_cancels_what_runs_while_connected() -> None:
    client = Client()
    result: asyncio.Future[str] = asyncio.Future()
    waiting = asyncio.create_task(while_connected(client.request, result))

    client.disconnect()

    with pytest.raises(InvalidRequest, match="closed the connection"):
        await waiting
    assert result.cancelled()


async def test_result_is_returned_while_connected() -> None:
    result: asyncio.Future[str] = asyncio.Future()
    result.set_result("done")

    assert await while_connected(Client().request, result) == "done"
