"""The FastAPI application: the contracts' routes, error rendering and middleware."""

from collections.abc import Sequence

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.cors import CORSMiddleware
from fastapi.responses import JSONResponse, RedirectResponse
from fastapi_offline import FastAPIOffline
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import BaseRoute

from pipelines.api.errors import EngineError
from pipelines.api.params import MAX_REFERENCES
from server.contracts import CONTRACTS
from server.errors import ServerError
from server.lifespan import running
from server.limits import MAX_IMAGE_BYTES
from server.version import VERSION
from server.web import file_routes, metrics_routes
from server.web.auth import RequireKey
from server.web.body_deadline import BodyDeadline
from server.web.contract import find_contract
from server.web.middleware import AnswerHeaders, BodyLimit, Forwarded, OwnHost
from server.web.openapi_errors import describe_errors
from server.web.origin import CrossSite, OriginRule
from server.web.problem import Problem, problem_of
from server.web.proxies import TrustedProxies
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
    public_routes = _add_routes(app, components)
    _add_error_handlers(app)
    describe_errors(app, lambda path: find_contract(CONTRACTS, path).error_schema)
    _add_middleware(app, components, public_routes)
    return app


def render_problem(path: str, problem: Problem) -> JSONResponse:
    """Render an error in the shape of the contract that `path` belongs to."""
    return find_contract(CONTRACTS, path).render_error(problem)


def _add_routes(app: FastAPI, components: Components) -> list[BaseRoute]:
    """Add every route, and return those that require no key: all others do."""
    services = components.services
    public = [*app.routes]  # of the documentation
    for contract in CONTRACTS:
        app.include_router(contract.router(services))
        if contract.public_router is not None:
            public += _include(app, contract.public_router(services))
    app.include_router(metrics_routes.router(services))
    public += _include(app, file_routes.router(services))
    if components.playground is not None:
        # it checks a cookie itself
        page = components.playground.routes()
        app.router.routes.extend(page)
        return [*public, *page]
    root = APIRouter()
    root.add_api_route("/", lambda: RedirectResponse("/docs"), include_in_schema=False)
    return public + _include(app, root)


def _include(app: FastAPI, router: APIRouter) -> list[BaseRoute]:
    before = len(app.routes)
    app.include_router(router)
    return app.routes[before:]


def _add_error_handlers(app: FastAPI) -> None:
    async def render(request: Request, exc: Exception) -> JSONResponse:
        return render_problem(request.url.path, problem_of(exc))

    expected = (ServerError, EngineError, RequestValidationError, HTTPException, ClientDisconnect)
    for kind in (*expected, Exception):
        app.add_exception_handler(kind, render)


def _add_middleware(
    app: FastAPI, components: Components, public_routes: Sequence[BaseRoute]
) -> None:
    """Add the middleware, the innermost first."""
    settings = components.services.settings
    app.add_middleware(BodyDeadline)
    body_limits: dict[str, int] = {}
    for contract in CONTRACTS:
        if contract.body_limits is not None:
            body_limits.update(contract.body_limits(settings))
    app.add_middleware(
        BodyLimit,
        max_bytes=lambda path: body_limits.get(path, MAX_BODY_BYTES),
        render=render_problem,
    )
    app.add_middleware(
        RequireKey,
        keys=components.keys,
        routes=app.routes,
        public_routes=public_routes,
        render=render_problem,
    )
    app.add_middleware(CrossSite, rule=OriginRule(settings.cors_origins), render=render_problem)
    if settings.cors_origins:
        app.add_middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["*"],
            allow_headers=["*"],
            expose_headers=CORS_EXPOSED_HEADERS,
        )
    if settings.is_loopback and not components.keys.has_keys:
        app.add_middleware(OwnHost, public_url=settings.public_url, render=render_problem)
    proxies = TrustedProxies(settings.trusted_proxies)
    app.add_middleware(Forwarded, public_url=settings.public_url, proxies=proxies)
    app.add_middleware(AnswerHeaders, model_name=lambda: components.services.model_name)
