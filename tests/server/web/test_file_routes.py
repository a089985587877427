"""Outputs and uploads over HTTP, without a server."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest
from fastapi import FastAPI, Request, Response
from fastapi.testclient import TestClient

from server.errors import NotFound
from server.media import outputs, uploads
from server.web import file_routes
from server.web.contract import Services
from tests.conftest import encoded, gradient


class Folder:
    """A served folder of files under their own names."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def path(self, name: str) -> Path | None:
        path = self._folder / name
        return path if path.is_file() else None


@pytest.fixture
def client(tmp_path: Path) -> Iterator[TestClient]:
    (tmp_path / "image.png").write_bytes(encoded(gradient()))
    (tmp_path / "page.bin").write_bytes(b"<script>alert(1)</script>")
    folder = Folder(tmp_path)
    app = FastAPI()
    services = cast(Services, SimpleNamespace(outputs=folder, uploads=folder))
    app.include_router(file_routes.router(services))

    @app.exception_handler(NotFound)
    async def missing(request: Request, exc: Exception) -> Response:
        return Response(str(exc), NotFound.status)

    with TestClient(app) as client:
        yield client


@pytest.mark.parametrize("route", [outputs.ROUTE, uploads.ROUTE])
def test_image_is_served_as_what_it_is_and_cached(client: TestClient, route: str) -> None:
    answer = client.get(f"{route}/image.png")

    assert (answer.status_code, answer.headers["content-type"]) == (200, "image/png")
    assert answer.content == encoded(gradient())
    assert answer.headers["cache-control"] == "private, max-age=31536000, immutable"
    assert client.head(f"{route}/image.png").headers["content-length"] == str(len(answer.content))


def test_upload_that_is_not_an_image_is_never_a_page(client: TestClient) -> None:
    answer = client.get(f"{uploads.ROUTE}/page.bin")

    assert answer.headers["content-type"] == "application/octet-stream"
    assert answer.headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(("route", "kind"), [(outputs.ROUTE, "output"), (uploads.ROUTE, "upload")])
def test_missing_file_is_reported_with_a_reason(client: TestClient, route: str, kind: str) -> None:
    answer = client.get(f"{route}/gone.png")

    assert answer.status_code == 404
    assert answer.text == f"There is no {kind} gone.png; {kind}s expire after a while."
