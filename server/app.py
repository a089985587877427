"""The FastAPI application: the contracts' routes, error rendering and middleware."""

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException

from pipelines.api.errors import EngineError
from pipelines.api.params import MAX_REFERENCES
from server.contracts import CONTRACTS
from server.errors import ServerError
from server.lifespan import running
from server.limits import MAX_IMAGE_BYTES
from server.version import VERSION
from server.web import file_routes
from server.web.contract import find_contract
from server.web.middleware import BaseUrl, BodyLimit, ModelHeader, OwnHost
from server.web.openapi_errors import describe_errors
from server.web.problem import Problem, problem_of
from server.wiring import Components

# The input images as base64, a third longer than their files, and room for the rest of the body.
MAX_BODY_BYTES = MAX_REFERENCES * MAX_IMAGE_BYTES * 4 // 3 + 10 * 2**20
# Response headers that scripts of other origins may read.
CORS_EXPOSED_HEADERS = ("x-qwen-edit-model", "x-fal-request-id", "x-request-id", "retry-after")


def create_app(components: Components) -> FastAPI:
    """Return the application; its lifespan starts and stops `components`."""
    app: FastAPI = FastAPIOffline(
        title="qwen-edit-server",
        version=VERSION,
        description="A local inference server for Qwen-Image-Edit-Plus.",
        lifespan=lambda _: running(components),
    )
    _add_routes(app, components)
    _add_error_handlers(app)
    describe_errors(app, lambda path: find_contract(CONTRACTS, path).error_schema)
    _add_middleware(app, components)
    return app


def render_problem(path: str, problem: Problem) -> JSONResponse:
    """Render an error in the shape of the contract that `path` belongs to."""
    return find_contract(CONTRACTS, path).render_error(problem)


def _add_routes(app: FastAPI, components: Components) -> None:
    services = components.services
    keys = [Depends(components.keys)]
    for contract in CONTRACTS:
        app.include_router(contract.router(services), dependencies=keys)
        if contract.public_router is not None:
            app.include_router(contract.public_router(services))
    app.include_router(file_routes.router(services))
    if components.playground is not None:
        app.router.routes.extend(components.playground.routes())
    else:
        app.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)


def _add_error_handlers(app: FastAPI) -> None:
    async def render(request: Request, exc: Exception) -> JSONResponse:
        return render_problem(request.url.path, problem_of(exc))

    for kind in (ServerError, EngineError, RequestValidationError, HTTPException, Exception):
        app.add_exception_handler(kind, render)


def _add_middleware(app: FastAPI, components: Components) -> None:
    settings = components.services.settings
    body_limits: dict[str, int] = {}
    for contract in CONTRACTS:
        if contract.body_limits is not None:
            body_limits.update(contract.body_limits(settings))
    app.add_middleware(BaseUrl, public_url=settings.public_url)
    app.add_middleware(
        BodyLimit,
        max_bytes=lambda path: body_limits.get(path, MAX_BODY_BYTES),
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
    app.add_middleware(ModelHeader, model_name=lambda: components.services.model_name)
