"""The server's own contract, `/v1` and `/health`, used by the command line and the page."""

from server.contracts.native import edits, loras, status
from server.contracts.native.problems import ERROR_SCHEMA, render
from server.contracts.native.routes import router
from server.web.contract import Contract

CONTRACT = Contract(
    name=edits.NAME,
    prefixes=("/",),
    router=router,
    render_error=render,
    error_schema=ERROR_SCHEMA,
    public_router=status.health_router,
    body_limits=loras.body_limits,
)

__all__ = ["CONTRACT"]
