"""Facts about a client's HTTP request beyond its body."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

from server.errors import InvalidRequest
from server.job import Job
from server.web.middleware import BASE_URL, CLIENT_ADDRESS, MAX_WARNINGS, WARNINGS

T = TypeVar("T")


def base_url(request: Request) -> str:
    """Return the server's URL as the client knows it, without a trailing slash.

    The `Forwarded` middleware resolves it once per request.
    """
    url: str = request.scope["state"][BASE_URL]
    return url


def client_address(request: Request) -> str:
    """Return the address of the client, behind trusted proxies."""
    address: str = request.scope["state"][CLIENT_ADDRESS]
    return address


def note_warnings(request: Request, job: Job) -> None:
    """Have the response carry the warnings of a finished job in a header."""
    if job.outcome is not None:
        request.scope["state"][WARNINGS] = list(job.outcome.warnings[:MAX_WARNINGS])


async def unless_disconnected(request: Request, result: Awaitable[T]) -> T | None:
    """Wait for `result`, or return None as soon as the client closes its connection.

    The request's body must have been read before.
    """
    waiting = asyncio.ensure_future(result)
    leaving = asyncio.create_task(_disconnected(request))
    try:
        await asyncio.wait({waiting, leaving}, return_when=asyncio.FIRST_COMPLETED)
        return waiting.result() if waiting.done() else None
    finally:
        for task in (waiting, leaving):
            task.cancel()


async def while_connected(request: Request, result: Awaitable[T]) -> T:
    """Wait for `result`, and cancel it as soon as the client closes its connection.

    Raises InvalidRequest then, which no client reads. The request's body must have been read.
    """
    found = await unless_disconnected(request, result)
    if found is None:
        raise InvalidRequest("the client closed the connection before its edit was queued")
    return found


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass
