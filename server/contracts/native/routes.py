"""The native routes that require a key."""

from fastapi import APIRouter

from server.contracts.native import edits, loras, presets, status
from server.web.contract import Services


def router(services: Services) -> APIRouter:
    """Return the routes of this contract, except `/health`."""
    routes = APIRouter()
    for part in (status.capabilities_router, edits.router, loras.router, presets.router):
        routes.include_router(part(services))
    return routes
