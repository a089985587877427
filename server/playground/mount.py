"""The page as an ASGI application at `/`: built in the background, guarded, stopped first."""

import asyncio
import importlib.util
import logging
import os
import shutil
import time
from contextlib import AsyncExitStack
from functools import partial

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.routing import Route
from starlette.types import Message, Receive, Scope, Send

from pipelines.api.errors import without_paths
from server.net.daemon_thread import run_in_daemon_thread
from server.playground import plain_pages
from server.playground.access import Access
from server.playground.context import PageContext
from server.playground.login_throttle import LoginThrottle
from server.playground.lora_views import THUMBNAILS
from server.web.origin import OriginRule
from server.web.thumbnail_response import thumbnail_response

logger = logging.getLogger(__name__)

# The paths that the page needs. Gradio has more, some of which fetch URLs or store state.
# A mount at `/` would also swallow the 404s and 405s of the API.
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
# Turns telemetry off; Gradio reads it when it is imported.
_ENVIRONMENT = {
    "GRADIO_ANALYTICS_ENABLED": "False",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "GRADIO_SHARE": "False",
}


class Playground:
    """The page as an ASGI application. `start` it with the server, `close` it before the rest."""

    def __init__(self, context: PageContext) -> None:
        self._context = context
        origins, throttle = OriginRule(context.settings.cors_origins), LoginThrottle(time.monotonic)
        self._access = Access(context.keys, origins, time.time, throttle)
        self._app: FastAPI | None = None
        self._failure: str | None = None
        self._is_installed = importlib.util.find_spec("gradio") is not None
        self._building: asyncio.Task[None] | None = None
        self._lifespan = AsyncExitStack()
        self._open: set[asyncio.Task[None]] = set()
        self._closing = False

    def routes(self) -> list[Route]:
        """The routes of the page; none is a prefix of an API route."""
        return [
            Route("/", self),
            Route("/login", self._login, methods=["POST"]),
            Route(THUMBNAILS + "/{name:path}", self._thumbnail),
            *(Route(path, self) for path in GRADIO_PATHS),
        ]

    def start(self) -> None:
        """Build the page in the background: importing Gradio takes seconds."""
        if self._is_installed:
            self._building = asyncio.create_task(self._build())

    def close(self) -> None:
        """Close the open streams: a browser holds one for as long as it shows the page."""
        self._closing = True
        for request in self._open:
            request.cancel()

    async def stop(self) -> None:
        """Close the streams and stop Gradio."""
        self.close()
        if self._building is not None:
            self._building.cancel()
            await asyncio.gather(self._building, return_exceptions=True)
        await self._lifespan.aclose()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the request, then let Gradio answer it.

        Raises HTTPException and Unauthorized.
        """
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
            raise HTTPException(404, "The page fetches no URLs.")
        if self._app is None:
            raise HTTPException(503, "The page is still starting.")
        await self._forward(self._app, scope, receive, send)

    def _plain_page(self, request: Request) -> Response | None:
        """The page to serve at `/` in place of the playground, None when the playground is up."""
        if not self._is_installed:
            return HTMLResponse(plain_pages.missing())
        if not self._access.has_access(request):
            return self._access.login_page()
        if self._failure is not None:
            return HTMLResponse(plain_pages.broken(self._failure), 500)
        return HTMLResponse(plain_pages.starting()) if self._app is None else None

    async def _login(self, request: Request) -> Response:
        return await self._access.log_in(request)

    async def _thumbnail(self, request: Request) -> Response:
        """Answer with the preview image of a LoRA. Raises NotFound and Unauthorized."""
        self._access.check_origin(request)
        self._access.check_cookie(request)
        name = request.path_params["name"]
        return thumbnail_response(await asyncio.to_thread(self._context.reports.thumbnail, name))

    async def _forward(self, app: FastAPI, scope: Scope, receive: Receive, send: Send) -> None:
        """Run the request as a separate task, which `close` can cancel."""
        if self._closing:
            raise HTTPException(503, "The server is shutting down.")
        is_response_open = False

        async def send_guarded(message: Message) -> None:
            nonlocal is_response_open
            if message["type"] == "http.response.start" and scope["path"].startswith(_FILE):
                # an uploaded file may be HTML with a script, which must not run on this origin
                headers = MutableHeaders(scope=message)
                headers["Content-Security-Policy"] = "sandbox"
                headers["X-Content-Type-Options"] = "nosniff"
            is_response_open = message["type"] != "http.response.body" or message.get(
                "more_body", False
            )
            await send(message)

        task = asyncio.create_task(app(scope, receive, send_guarded))
        self._open.add(task)
        try:
            await task
        except asyncio.CancelledError:
            if not self._closing:
                task.cancel()
                raise
            if is_response_open:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
        finally:
            self._open.discard(task)

    async def _build(self) -> None:
        os.environ.update(_ENVIRONMENT, GRADIO_TEMP_DIR=str(self._context.cache))
        try:
            building = run_in_daemon_thread(partial(_import_and_build, self._context), "page")
            app = await asyncio.wrap_future(building)
            await self._lifespan.enter_async_context(app.router.lifespan_context(app))
        except Exception as exc:
            logger.exception("the page could not be built")
            self._failure = without_paths(f"{type(exc).__name__}: {exc}")
            return
        self._app = app
        logger.info("the page is ready")


def _import_and_build(context: PageContext) -> FastAPI:
    from server.playground.blocks import build_app

    # a killed server leaves files here that Gradio no longer knows
    shutil.rmtree(context.cache, ignore_errors=True)
    context.cache.mkdir(parents=True)
    return build_app(context)
