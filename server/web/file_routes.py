"""Outputs and uploads under their own URLs. Their unguessable names stand in for a key."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from server.errors import NotFound
from server.media import outputs, uploads
from server.media.images import media_type
from server.web.contract import Services


def router(services: Services) -> APIRouter:
    """Return the routes; they require no key."""
    routes = APIRouter(include_in_schema=False)

    @routes.api_route(f"{outputs.ROUTE}/{{name}}", methods=["GET", "HEAD"])
    def get_output(name: str) -> FileResponse:
        """Return a finished image."""
        path = services.outputs.path(name)
        if path is None:
            raise NotFound(f"There is no output {name}; outputs expire after a while.")
        return _file_response(path, f"image/{path.suffix[1:]}")

    @routes.api_route(f"{uploads.ROUTE}/{{name}}", methods=["GET", "HEAD"])
    def get_upload(name: str) -> FileResponse:
        """Return an uploaded file; one that is not an image is never served as a page or script."""
        path = services.uploads.path(name)
        if path is None:
            raise NotFound(f"There is no upload {name}; uploads expire after a while.")
        return _file_response(path, media_type(path) or "application/octet-stream")

    return routes


def _file_response(path: Path, content_type: str) -> FileResponse:
    return FileResponse(
        path,
        media_type=content_type,
        headers={
            "Cache-Control": "private, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
        },
    )
