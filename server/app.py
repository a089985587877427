"""The wiring: settings to parts, parts to one FastAPI application. Nothing else knows them all."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from pipelines.architecture import read_linears
from pipelines.catalog import Catalog, ModelChoice
from pipelines.errors import EngineError
from pipelines.lora_file import Linears
from server.auth import KeyCheck
from server.contracts import native, wavespeed
from server.contracts.native import edits, loras, status
from server.dispatcher import Dispatcher
from server.edit_service import EditService
from server.errors import NotFound, ServerError
from server.executor import LocalExecutor
from server.fetch import Fetcher
from server.inputs import InputStore
from server.job_queue import JobQueue
from server.lora_library import LoraLibrary
from server.lora_store import LoraStore
from server.middleware import BodyLimit, ModelHeader
from server.outputs import ROUTE, OutputStore
from server.preparer import Preparer
from server.problem import Problem, problem_of
from server.settings import SafetyMode, Settings
from server.store.database import Database, DataFolderLock
from server.worker_process import WorkerOptions

logger = logging.getLogger(__name__)

VERSION = version("qwen-edit-server")
# Three pictures of 20 MiB as base64, and room for the rest of the body.
MAX_BODY_BYTES = 90 * 1024 * 1024
# What a form adds to the file in it.
FORM_BYTES = 64 * 1024
EXPIRY_INTERVAL_S = 3600.0
# The contract whose shape an error takes, by the beginning of the path; the last one is for all.
RENDERERS: tuple[tuple[str, Callable[[Problem], JSONResponse]], ...] = (
    ("/api/", wavespeed.render),
    ("/", native.render),
)


@dataclass(frozen=True, slots=True)
class Parts:
    """What lives as long as the server."""

    settings: Settings
    choice: ModelChoice
    catalog: Catalog
    database: Database
    fetcher: Fetcher
    inputs: InputStore
    outputs: OutputStore
    library: LoraLibrary
    queue: JobQueue
    executor: LocalExecutor
    preparer: Preparer
    dispatcher: Dispatcher
    service: EditService


def build_parts(settings: Settings, choice: ModelChoice, catalog: Catalog) -> Parts:
    """Make the parts and hand each what it needs; nothing is started."""
    data = settings.data_dir
    database = Database(data / "jobs.sqlite3")
    queue = JobQueue(database, max_waiting=settings.max_waiting_jobs, clock=time.time)
    fetcher = Fetcher(settings.allow_networks, offline=settings.offline)
    outputs = OutputStore(data / "outputs")
    inputs = InputStore(
        data / "inputs",
        fetcher,
        own_file=outputs.path_of_url,
        fetch_timeout_s=settings.fetch_timeout_s,
    )
    executor = LocalExecutor(
        [_worker_options(settings, choice, device) for device in settings.devices]
    )
    library = _build_library(settings, catalog, fetcher, executor, queue)
    preparer = Preparer(queue, inputs, library)
    dispatcher = Dispatcher(
        queue,
        executor,
        inputs,
        library,
        outputs,
        job_timeout_s=settings.job_timeout_s,
        keep_inputs=settings.keep_inputs,
        embed_prompt=settings.embed_prompt,
        blocks_unsafe=settings.safety_mode is SafetyMode.BLOCK,
    )
    service = EditService(
        queue,
        dispatcher,
        preparer,
        executor,
        inputs,
        library,
        outputs,
        clock=time.time,
        log_prompts=settings.log_prompts,
    )
    return Parts(
        settings, choice, catalog, database, fetcher, inputs, outputs, library, queue, executor,
        preparer, dispatcher, service,
    )  # fmt: skip


def _worker_options(settings: Settings, choice: ModelChoice, device: str) -> WorkerOptions:
    return WorkerOptions(
        model=choice.path,
        build_demo=choice.is_demo,
        device=device,
        dtype=settings.dtype,
        offload=settings.offload,
        safety_checker=settings.safety_checker,
    )


def _build_library(
    settings: Settings,
    catalog: Catalog,
    fetcher: Fetcher,
    executor: LocalExecutor,
    queue: JobQueue,
) -> LoraLibrary:
    max_store_bytes = round(settings.lora_store_gb * 2**30)
    return LoraLibrary(
        catalog,
        LoraStore(settings.data_dir / "loras", max_bytes=max_store_bytes),
        fetcher,
        max_bytes=settings.max_lora_mb * 2**20,
        timeout_s=settings.lora_timeout_s,
        tokens=settings.download_tokens,
        linears=lambda: executor.model.linears if executor.model else None,
        in_use=queue.lora_references,
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
    keys = [Depends(KeyCheck(settings.all_api_keys()))]
    app.include_router(status.health_router(parts.queue, parts.executor, parts.choice))
    for router in (
        status.capabilities_router(parts.executor, parts.catalog, parts.choice, version=VERSION),
        edits.router(parts.service, public_url=settings.public_url),
        wavespeed.router(
            parts.service, public_url=settings.public_url, sync_timeout_s=settings.sync_timeout_s
        ),
        loras.router(parts.library, parts.catalog, lambda: _linears(parts)),
    ):
        app.include_router(router, dependencies=keys)
    _add_outputs(app, parts.outputs)
    _add_errors(app)
    max_upload_bytes = settings.max_lora_mb * 2**20 + FORM_BYTES
    app.add_middleware(
        BodyLimit,
        max_bytes=lambda path: max_upload_bytes if path == loras.ROUTE else MAX_BODY_BYTES,
        render=render_problem,
    )
    app.add_middleware(ModelHeader, model_name=lambda: _model_name(parts))
    app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
    return app


@contextlib.asynccontextmanager
async def running(parts: Parts) -> AsyncIterator[None]:
    """Start the parts, and stop them within seconds."""
    for job in await parts.queue.open():
        parts.preparer.add(job)
    await parts.service.remove_leftovers()
    parts.executor.start()
    tasks = [
        asyncio.create_task(_or_stop(name, work))
        for name, work in (
            ("the dispatcher", parts.dispatcher.serve()),
            ("the preparer", parts.preparer.serve()),
            ("the expiry", _expire(parts)),
        )
    ]
    try:
        yield
    finally:
        parts.queue.close()
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
    catalog = Catalog(settings.weights_dir, settings.data_dir)
    choice = catalog.resolve_model(settings.model)
    if choice.is_demo:
        logger.warning("MODEL: the demo model (%s). %s", choice.why, status.DEMO_WARNING)
    else:
        logger.info("MODEL: %s, %s", choice.path, choice.why)
    return catalog, choice


def lock_data_folder(folder: Path) -> DataFolderLock:
    """Make sure that no other server works on this folder. Raises DataFolderInUse."""
    return DataFolderLock(folder)


def render_problem(path: str, problem: Problem) -> JSONResponse:
    """The error in the shape of the contract that `path` belongs to."""
    renderer = next(renderer for prefix, renderer in RENDERERS if path.startswith(prefix))
    return renderer(problem)


def _linears(parts: Parts) -> Linears:
    """The linear layers of the model that answers, or will answer when it is loaded."""
    loaded = parts.executor.model
    return loaded.linears if loaded else read_linears(parts.choice.path)


def _model_name(parts: Parts) -> str:
    loaded = parts.executor.model
    return loaded.model.name if loaded else parts.choice.path.name


def _add_outputs(app: FastAPI, outputs: OutputStore) -> None:
    @app.api_route(f"{ROUTE}/{{name}}", methods=["GET", "HEAD"], include_in_schema=False)
    def get_output(name: str) -> FileResponse:
        """A finished picture. Its name is the key: providers' clients fetch it without one."""
        path = outputs.path(name)
        if path is None:
            raise NotFound(f"There is no output {name}; outputs expire after a while.")
        return FileResponse(
            path,
            media_type=f"image/{path.suffix[1:]}",
            headers={
                "Cache-Control": "private, max-age=31536000, immutable",
                "X-Content-Type-Options": "nosniff",
            },
        )


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
        await asyncio.sleep(EXPIRY_INTERVAL_S)


async def _or_stop(name: str, work: Coroutine[object, object, None]) -> None:
    """Run a part that must not end; if it does, end the server, whose supervisor restarts it."""
    try:
        await work
    except Exception:
        logger.critical("%s failed; the server stops", name, exc_info=True)
        os.kill(os.getpid(), signal.SIGTERM)
