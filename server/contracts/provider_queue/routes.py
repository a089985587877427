"""The paths of the provider queue and of fal, and their handlers."""

from typing import Any

from fastapi import APIRouter, Depends, HTTPException, Request
from fastapi.sse import EventSourceResponse

from server.contracts.provider_queue.answers import (
    CancelAnswer,
    Failure,
    Result,
    StatusAnswer,
    Submitted,
)
from server.contracts.provider_queue.endpoint import Endpoint
from server.errors import NotFound
from server.web.contract import Services
from server.web.preset_path import PRESET, declare_preset

MOUNTS = ("/v1/queue", "/model/v1/queue")
PLAIN = "qwen_image_edit_plus"
FAL = ("fal-ai/qwen-image-edit-plus", "fal-ai/qwen-image-edit-plus-lora")
# fal's clients use the root too; a catch-all /{owner}/{app} would shadow other routes
FAL_PREFIX = "/fal-ai"
RUN_PREFIX = "/run"
PREFIXES = (*MOUNTS, FAL_PREFIX, f"{RUN_PREFIX}{FAL_PREFIX}")
METHODS = ["GET", "POST", "PUT"]


def router(services: Services) -> APIRouter:
    """Return the routes of this contract. The OpenAPI document shows one of the two mounts."""
    routes = APIRouter(tags=["provider queue"])
    for mount in MOUNTS:
        shown = mount == MOUNTS[0]
        for name in (PLAIN, *FAL):
            queue = Endpoint(services.edits, mount, name)
            submit = queue.submit if name == PLAIN else queue.submit_fal
            _add(routes, "POST", queue.path, submit, {200: Submitted}, shown=shown)
            if name != PLAIN:
                preset = f"{queue.path}/{PRESET}"
                _add(routes, "POST", preset, submit, {200: Submitted}, shown=shown)
            _add_requests(routes, queue, shown=shown)
    for name in FAL:
        queue = Endpoint(services.edits, "", name)
        run = {200: Result, 410: Failure, 500: Failure}
        _add(routes, "POST", queue.path, queue.submit_or_run, run, shown=True)
        _add(routes, "POST", f"{RUN_PREFIX}{queue.path}", queue.run, run, shown=True)
        preset = f"{queue.path}/{PRESET}"
        _add(routes, "POST", preset, queue.submit_or_run, run, shown=True)
        _add(routes, "POST", f"{RUN_PREFIX}{preset}", queue.run, run, shown=True)
        _add_requests(routes, queue, shown=False)
    for prefix in PREFIXES:
        path = f"{prefix}/{{app:path}}"
        routes.add_api_route(path, _unknown, methods=METHODS, include_in_schema=False)
    return routes


def _add_requests(routes: APIRouter, queue: Endpoint, *, shown: bool) -> None:
    path = f"{queue.path}/requests/{{request_id}}"
    results = {200: Result, 202: StatusAnswer, 410: Failure, 422: Failure, 500: Failure}
    _add(routes, "GET", f"{path}/status", queue.status, {200: StatusAnswer}, shown=shown)
    _add(routes, "GET", f"{path}/response", queue.result, results, shown=shown)
    _add(routes, "GET", path, queue.result, results, shown=shown)
    cancels = {202: CancelAnswer, 400: CancelAnswer, 404: CancelAnswer}
    _add(routes, "PUT", f"{path}/cancel", queue.cancel, cancels, shown=shown)
    routes.add_api_route(
        f"{path}/status/stream",
        queue.stream,
        methods=["GET"],
        response_class=EventSourceResponse,
        dependencies=[Depends(queue.check)],
        include_in_schema=shown,
    )


def _add(
    routes: APIRouter,
    method: str,
    path: str,
    handler: Any,
    answers: dict[int, Any],
    *,
    shown: bool,
) -> None:
    declared: dict[int | str, dict[str, Any]] = {
        status: {"model": model} for status, model in answers.items()
    }
    status = min(answers)
    routes.add_api_route(
        path,
        handler,
        methods=[method],
        status_code=status,
        response_model=None,
        responses=declared,
        dependencies=[Depends(declare_preset)] if PRESET in path else None,
        include_in_schema=shown,
    )


async def _unknown(request: Request, app: str) -> None:
    """Raise NotFound for an unknown app, or 405 for a method that a known one lacks."""
    path = request.url.path
    for prefix in (*MOUNTS, RUN_PREFIX):
        path = path.removeprefix(prefix)
    name = path.removeprefix("/").partition("/requests/")[0]
    if name in (PLAIN, *FAL):
        raise HTTPException(405)
    raise NotFound(f"App not found: {name}")
