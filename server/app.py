"""The wiring: settings to parts, parts to one FastAPI application. Nothing else knows them all."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine
from importlib.metadata import version
from pathlib import Path
from typing import Any, Protocol

from fastapi import APIRouter, Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from pipelines.api.errors import EngineError
from pipelines.api.params import MAX_REFERENCES
from pipelines.files.architecture import read_linears
from pipelines.files.catalog import Catalog, ModelChoice
from pipelines.files.lora_format.file import Linears
from server.contracts import native, openai, provider_queue, wavespeed
from server.contracts.native import edits, loras, status
from server.errors import ServerError
from server.limits import MAX_IMAGE_BYTES
from server.settings import SafetyMode, Settings
from server.store.database import DataFolderLock
from server.web import file_routes as files
from server.web.middleware import BodyLimit, ModelHeader, OwnHost
from server.web.openapi_errors import describe_errors
from server.web.problem import Problem, problem_of
from server.wiring import Parts

logger = logging.getLogger(__name__)


class Contract(Protocol):
    """What each contract's package has of its own: the shape of its errors."""

    @property
    def ERROR_SCHEMA(self) -> dict[str, Any]:  # noqa: N802 - a constant of the package
        """That shape as JSON schema."""

    def render(self, problem: Problem) -> JSONResponse:
        """An error in that shape."""


VERSION = version("qwen-edit-server")
# The input images as base64, a third longer than their files, and room for the rest of the body.
MAX_BODY_BYTES = MAX_REFERENCES * MAX_IMAGE_BYTES * 4 // 3 + 10 * 2**20
# What a form adds to the file in it.
FORM_BYTES = 64 * 1024
# What scripts of other pages may read of an answer.
CORS_EXPOSED_HEADERS = ("x-qwen-edit-model", "x-fal-request-id", "x-request-id", "retry-after")
EXPIRY_INTERVAL_S = 3600.0
# The contract whose shape an error takes, by the beginning of the path; the last one is for all.
CONTRACTS: tuple[tuple[str, Contract], ...] = (
    ("/api/", wavespeed),
    ("/v1/queue/", provider_queue),
    ("/model/v1/queue/", provider_queue),
    ("/fal-ai/", provider_queue),
    ("/run/fal-ai/", provider_queue),
    ("/v1/images/", openai),
    ("/v1/models", openai),
    ("/", native),
)


def create_app(parts: Parts) -> FastAPI:
    """The application over `parts`, which it starts and stops with itself."""
    settings = parts.settings
    app: FastAPI = FastAPIOffline(
        title="qwen-edit-server",
        version=VERSION,
        description="A local inference server for Qwen-Image-Edit-Plus.",
        lifespan=lambda _: running(parts),
    )
    keys = [Depends(parts.keys)]
    app.include_router(status.health_router(parts.queue, parts.executor, parts.choice))
    for router in (
        status.capabilities_router(parts.executor, parts.catalog, parts.choice, version=VERSION),
        edits.router(parts.service, public_url=settings.public_url),
        wavespeed.router(
            parts.service,
            parts.uploads,
            public_url=settings.public_url,
            sync_timeout_s=settings.sync_timeout_s,
            webhook_secret=parts.webhook_secret,
        ),
        provider_queue.router(parts.service, public_url=settings.public_url),
        _openai_router(parts),
        loras.router(parts.library, parts.catalog, lambda: _linears(parts)),
    ):
        app.include_router(router, dependencies=keys)
    app.include_router(files.router(parts.outputs, parts.uploads))
    app.include_router(wavespeed.upload_router(parts.uploads, public_url=settings.public_url))
    _add_errors(app)
    describe_errors(app, lambda path: _contract_of(path).ERROR_SCHEMA)
    _add_middleware(app, parts)
    if parts.playground is not None:
        app.router.routes.extend(parts.playground.routes())
    else:
        app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
    return app


@contextlib.asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[None]:
    """Start the parts, and stop them within seconds."""
    for job in await parts.queue.open():
        parts.preparer.add(job)
    await parts.uploads.open()
    await parts.service.remove_leftovers()
    parts.executor.start()
    if parts.playground is not None:
        parts.playground.start()
    tasks = [
        asyncio.create_task(_or_stop(name, work))
        for name, work in (
            ("the dispatcher", parts.dispatcher.serve()),
            ("the preparer", parts.preparer.serve()),
            ("the sender of webhooks", parts.webhooks.serve()),
            ("the expiry", _expire(parts)),
        )
    ]
    try:
        yield
    finally:
        parts.end_streams()
        if parts.playground is not None:
            await parts.playground.stop()
        parts.executor.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await parts.executor.stop()
        await parts.fetcher.close()
        parts.inputs.close()
        parts.outputs.close()
        parts.database.close()


def choose_model(settings: Settings) -> tuple[Catalog, ModelChoice]:
    """The model to serve, said loudly in the log. Raises ModelNotFound."""
    catalog = Catalog(settings.weights_dir)
    choice = catalog.resolve_model(settings.model)
    if choice.is_demo:
        catalog = catalog.with_demo_loras()
        logger.warning("MODEL: the demo model (%s). %s", choice.why, choice.warning)
    else:
        logger.info("MODEL: %s, %s", choice.path, choice.why)
    return catalog, choice


def lock_data_folder(folder: Path) -> DataFolderLock:
    """Make sure that no other server works on this folder. Raises DataFolderInUse."""
    return DataFolderLock(folder)


def render_problem(path: str, problem: Problem) -> JSONResponse:
    """The error in the shape of the contract that `path` belongs to."""
    return _contract_of(path).render(problem)


def _contract_of(path: str) -> Contract:
    return next(contract for prefix, contract in CONTRACTS if path.startswith(prefix))


def _openai_router(parts: Parts) -> APIRouter:
    settings = parts.settings
    blocks = settings.safety_checker is not None and settings.safety_mode is SafetyMode.BLOCK
    return openai.router(
        parts.service,
        public_url=settings.public_url,
        model_name=lambda: _model_name(parts),
        clock=time.time,
        # a preview is not looked at by the checker
        shows_previews=not blocks,
    )


def _linears(parts: Parts) -> Linears:
    """The linear layers of the model that answers, or will answer when it is loaded."""
    loaded = parts.executor.model
    return loaded.linears if loaded else read_linears(parts.choice.path)


def _model_name(parts: Parts) -> str:
    loaded = parts.executor.model
    return loaded.model.name if loaded else parts.choice.path.name


def _add_middleware(app: FastAPI, parts: Parts) -> None:
    settings = parts.settings
    max_upload_bytes = settings.max_lora_mb * 2**20 + FORM_BYTES
    app.add_middleware(
        BodyLimit,
        max_bytes=lambda path: max_upload_bytes if path == loras.ROUTE else MAX_BODY_BYTES,
        render=render_problem,
    )
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=CORS_EXPOSED_HEADERS,
        )
    if settings.is_loopback and not settings.all_api_keys():
        app.add_middleware(OwnHost, public_url=settings.public_url, render=render_problem)
    app.add_middleware(ModelHeader, model_name=lambda: _model_name(parts))


def _add_errors(app: FastAPI) -> None:
    async def render(request: Request, exc: Exception) -> JSONResponse:
        return render_problem(request.url.path, problem_of(exc))

    for kind in (ServerError, EngineError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, render)


async def _expire(parts: Parts) -> None:
    while True:
        older_than = time.time() - parts.settings.keep_outputs_h * 3600
        if expired := await parts.service.expire(older_than):
            logger.info("%d jobs expired and were deleted", expired)
        # an hour more: a file is a moment older than the end of its job
        await asyncio.to_thread(parts.outputs.sweep, older_than - EXPIRY_INTERVAL_S)
        if expired := await parts.uploads.expire():
            logger.info("%d uploads expired and were deleted", expired)
        await asyncio.sleep(EXPIRY_INTERVAL_S)


async def _or_stop(name: str, work: Coroutine[object, object, None]) -> None:
    """Run a part that must not end; if it does, end the server, whose supervisor restarts it."""
    try:
        await work
    except Exception:
        logger.critical("%s failed; the server stops", name, exc_info=True)
        os.kill(os.getpid(), signal.SIGTERM)
