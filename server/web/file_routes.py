"""Outputs and uploads under their own URLs. A name is the key: clients fetch them without one."""

from pathlib import Path

from fastapi import APIRouter
from fastapi.responses import FileResponse

from server.errors import NotFound
from server.media import outputs as output_files
from server.media import uploads as upload_files
from server.media.images import media_type
from server.media.outputs import OutputStore
from server.media.uploads import UploadStore


def router(outputs: OutputStore, uploads: UploadStore) -> APIRouter:
    """The routes; they need no key."""
    routes = APIRouter(include_in_schema=False)

    @routes.api_route(f"{output_files.ROUTE}/{{name}}", methods=["GET", "HEAD"])
    def get_output(name: str) -> FileResponse:
        """A finished image."""
        path = outputs.path(name)
        if path is None:
            raise NotFound(f"There is no output {name}; outputs expire after a while.")
        return _answer(path, f"image/{path.suffix[1:]}")

    @routes.api_route(f"{upload_files.ROUTE}/{{name}}", methods=["GET", "HEAD"])
    def get_upload(name: str) -> FileResponse:
        """An uploaded file. What is no image is no page or script either."""
        path = uploads.path(name)
        if path is None:
            raise NotFound(f"There is no upload {name}; uploads expire after a while.")
        return _answer(path, media_type(path) or "application/octet-stream")

    return routes


def _answer(path: Path, content_type: str) -> FileResponse:
    return FileResponse(
        path,
        media_type=content_type,
        headers={
            "Cache-Control": "private, max-age=31536000, immutable",
            "X-Content-Type-Options": "nosniff",
        },
    )
