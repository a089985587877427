"""All of WaveSpeed's routes that need a key."""

from fastapi import APIRouter

from server.contracts.wavespeed import account, history, media, models, predictions
from server.jobs.service import EditService
from server.media.uploads import UploadStore


def router(
    service: EditService,
    uploads: UploadStore,
    *,
    public_url: str | None,
    sync_timeout_s: float,
    webhook_secret: str,
) -> APIRouter:
    """The routes of this contract, but for the one that takes the bytes of an upload."""
    routes = APIRouter(tags=["WaveSpeed"])
    for part in (
        predictions.router(service, public_url=public_url, sync_timeout_s=sync_timeout_s),
        history.router(service, public_url=public_url),
        media.router(uploads, public_url=public_url),
        models.router(public_url=public_url),
        account.router(webhook_secret=webhook_secret),
    ):
        routes.include_router(part)
    return routes
