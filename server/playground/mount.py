"""Puts the page at `/`: built beside the running server, guarded, and ended with it."""

import asyncio
import importlib.util
import logging
import os
import shutil
from contextlib import AsyncExitStack
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from server.net.daemon_thread import run_in_daemon_thread
from server.playground import plain_pages
from server.playground.access import Access
from server.playground.context import PageContext
from server.web.auth import KeyCheck

logger = logging.getLogger(__name__)

# What Gradio's page asks for, and no more of what Gradio can: it has paths that fetch URLs and keep
# states. A mount at `/` would swallow the 404s and 405s of the API, too.
GRADIO_PATHS = (
    "/config",
    "/theme.css",
    "/favicon.ico",
    "/manifest.json",
    "/assets/{path:path}",
    "/static/{path:path}",
    "/svelte/{path:path}",
    "/gradio_api/queue/join",
    "/gradio_api/queue/data",
    "/gradio_api/upload",
    "/gradio_api/upload_progress",
    "/gradio_api/heartbeat/{session}",
    "/gradio_api/startup-events",
    "/gradio_api/info",
    "/gradio_api/theme.css",
    "/gradio_api/app_id",
    "/gradio_api/file={path:path}",
)
_FILE = "/gradio_api/file="
# Set before Gradio is imported: nothing is told to anybody.
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SHARE": "False",
}


class Playground:
    """The page as an ASGI application. `start` it with the server and `close` it first."""

    def __init__(self, parts: PageContext, keys: KeyCheck) -> None:
        self._parts = parts
        self._access = Access(keys)
        self._app: FastAPI | None = None
        self._failure: str | None = None
        self._is_installed = importlib.util.find_spec("gradio") is not None
        self._building: asyncio.Task[None] | None = None
        self._lifespan = AsyncExitStack()
        self._open: set[asyncio.Task[None]] = set()
        self._closing = False

    def routes(self) -> list[Route]:
        """The routes that lead here, none of them a prefix of the API's."""
        return [
            Route("/", self),
            Route("/login", self._login, methods=["POST"]),
            *(Route(path, self) for path in GRADIO_PATHS),
        ]

    def start(self) -> None:
        """Begin to build the page, beside the server: importing Gradio takes seconds."""
        if self._is_installed:
            self._building = asyncio.create_task(self._build())

    def close(self) -> None:
        """End the open streams: a browser holds its own for as long as the page is open."""
        self._closing = True
        for request in self._open:
            request.cancel()

    async def stop(self) -> None:
        """End what was started."""
        self.close()
        if self._building is not None:
            self._building.cancel()
            await asyncio.gather(self._building, return_exceptions=True)
        await self._lifespan.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer as Gradio does, if the browser may and the page is there."""
        request = Request(scope, receive)
        self._access.check_origin(request)
        is_page = scope["path"] == "/"
        if is_page and scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        if is_page and (plain := self._plain_page(request)):
            await plain(scope, receive, send)
            return
        self._access.check_cookie(request)
        if scope["path"].removeprefix(_FILE).lower().startswith(("http:", "https:")):
            raise HTTPException(404, "The page fetches nothing by itself.")
        if self._app is None:
            raise HTTPException(503, "The page is not there yet.")
        await self._forward(self._app, scope, receive, send)

    def _plain_page(self, request: Request) -> Response | None:
        """What stands at `/` instead of the page, None where the page does."""
        if not self._is_installed:
            return HTMLResponse(plain_pages.missing())
        if not self._access.is_let_in(request):
            return self._access.ask()
        if self._failure is not None:
            return HTMLResponse(plain_pages.broken(self._failure), 500)
        return HTMLResponse(plain_pages.starting()) if self._app is None else None

    async def _login(self, request: Request) -> Response:
        return await self._access.let_in(request)

    async def _forward(self, app: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request as a task of its own, so that `close` can end it."""
        if self._closing:
            raise HTTPException(503, "The server is stopping.")
        is_halfway = False

        async def send_noted(message: Message) -> None:
            nonlocal is_halfway
            if message["type"] == "http.response.start" and scope["path"].startswith(_FILE):
                # somebody may have uploaded a page with a script: it gets no say here
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = "sandbox"
                headers["X-Content-Type-Options"] = "nosniff"
            is_halfway = message["type"] != "http.response.body" or message.get("more_body", False)
            await send(message)

        task = asyncio.create_task(app(scope, receive, send_noted))
        self._open.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if not self._closing:
                task.cancel()
                raise
            if is_halfway:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._open.discard(task)

    async def _build(self) -> None:
        os.environ.update(_ENVIRONMENT, GRADIO_TEMP_DIR=str(self._parts.cache))
        try:
            building = run_in_daemon_thread(partial(_import_and_build, self._parts), "page")
            app = await asyncio.wrap_future(building)
            await self._lifespan.enter_async_context(app.router.lifespan_context(app))
        except Exception as exc:
            logger.exception("the page cannot be built")
            self._failure = f"{type(exc).__name__}: {exc}"
            return
        self._app = app
        logger.info("the page is ready")


def _import_and_build(parts: PageContext) -> FastAPI:
    from server.playground.blocks import build_app

    # Gradio forgets its files when it is killed
    shutil.rmtree(parts.cache, ignore_errors=True)
    parts.cache.mkdir(parents=True)
    return build_app(parts)
