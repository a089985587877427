"""All WaveSpeed routes that require a key."""

from fastapi import APIRouter

from server.contracts.wavespeed import account, history, media, models, predictions
from server.web.contract import Services


def router(services: Services) -> APIRouter:
    """Return the routes of this contract, except the one that receives an upload's bytes."""
    routes = APIRouter(tags=["WaveSpeed"])
    parts = (predictions.router, history.router, media.router, models.router, account.router)
    for part in parts:
        routes.include_router(part(services))
    return routes
