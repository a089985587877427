"""What the contracts want to know of a client's HTTP request beyond its body."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from fastapi import Request

T = TypeVar("T")


def base_url(request: Request, public_url: str | None) -> str:
    """The address under which the client reached this server, without a slash at the end.

    A configured public URL wins; else what a proxy says of itself, else the Host header.
    """
    if public_url is not None:
        return public_url
    scheme = _first(request.headers.get("x-forwarded-proto")) or request.url.scheme
    host = _first(request.headers.get("x-forwarded-host")) or request.headers.get("host", "")
    prefix = _first(request.headers.get("x-forwarded-prefix")) or ""
    return f"{scheme}://{host}{prefix}".rstrip("/")


async def unless_hung_up(request: Request, result: Awaitable[T]) -> T | None:
    """Wait for `result`; None as soon as the client closes its connection.

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


async def _disconnected(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _first(header: str | None) -> str | None:
    """The first value of a header that each proxy on the way appends to."""
    return header.split(",")[0].strip() if header else None
