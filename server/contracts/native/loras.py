"""`/v1/loras`: list, inspect, upload, delete; `/v1/lora-thumbnails`."""

import asyncio
import urllib.parse
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Request, Response, UploadFile
from pydantic import BaseModel, ConfigDict, Field

from pipelines.api.profiles import LoraProfile
from pipelines.api.sampling import dump_sampling
from pipelines.files.catalog import LoraEntry
from pipelines.files.lora_format.report import LoraReport
from server.loras.library import LoraLibrary
from server.loras.reports import LoraReports
from server.settings import Settings
from server.web.auth import require_admin
from server.web.contract import Services
from server.web.request import base_url
from server.web.thumbnail_response import thumbnail_response

ROUTE = "/v1/loras"
# Not below a LoRA's own path: its name may end in any word.
THUMBNAILS = "/v1/lora-thumbnails"
CHUNK_BYTES = 1024 * 1024
# Room for the other parts of a form beside the file in it.
FORM_BYTES = 64 * 1024


class ProfileView(BaseModel):
    """How requests with the LoRA are sampled where they leave it open."""

    sampling: dict[str, Any]
    is_guess: bool


class LoraItem(BaseModel):
    """A LoRA under weights/loras. Requests name it by `name`, as a LoRA's `path`.

    `problem` says why it does not fit the loaded model. Of a file that cannot be read, no more than
    name and size are known.
    """

    name: str
    size_bytes: int
    fits: bool
    problem: str | None
    title: str | None = None
    kind: str | None = None
    ranks: Mapping[int, int] = {}
    base_model: str | None = None
    trigger_words: tuple[str, ...] = ()
    usage_hint: str | None = None
    suggested_scale: float | None = None
    thumbnail: str | None = Field(None, description="URL of an image")
    profile: ProfileView | None = None


class LoraList(BaseModel):
    """All LoRAs, sorted by name."""

    items: list[LoraItem]


class LoraView(BaseModel):
    """A summary of a LoRA file; `problem` says why it does not fit the loaded model.

    `metadata` is that of the file, without images.
    """

    model_config = ConfigDict(from_attributes=True)

    name: str
    size_bytes: int
    fits: bool
    problem: str | None
    family: str | None
    layout: str
    kind: str
    modules: int
    ranks: Mapping[int, int]
    alphas: Mapping[str, int]
    dtypes: Mapping[str, int]
    title: str | None
    base_model: str | None
    trigger_words: tuple[str, ...]
    usage_hint: str | None
    suggested_scale: float | None
    thumbnail: str | None = Field(description="URL of an image")
    metadata: Mapping[str, str]
    profile: ProfileView | None
    warnings: tuple[str, ...]


def router(services: Services) -> APIRouter:
    """Return the routes under `/v1/loras` and `/v1/lora-thumbnails`."""
    routes = APIRouter(tags=["native"])
    _add_reads(routes, services.reports)
    _add_changes(routes, services.reports, services.library)
    return routes


def _add_reads(routes: APIRouter, reports: LoraReports) -> None:
    @routes.get(ROUTE)
    def list_loras(request: Request) -> LoraList:
        """List the LoRAs under weights/loras, including files added since the start."""
        base = base_url(request)
        return LoraList(items=[_item(lora, report, base) for lora, report in reports.all()])

    @routes.get(ROUTE + "/{name:path}")
    def get_lora(name: str, request: Request) -> LoraView:
        """Return layout, family, ranks, trigger words, and whether the LoRA fits the model."""
        return lora_view(reports.full(reports.find(name)), base_url(request))

    @routes.get(
        THUMBNAILS + "/{name:path}",
        response_class=Response,
        responses={200: {"content": {"image/png": {}, "image/jpeg": {}, "image/webp": {}}}},
    )
    def get_thumbnail(name: str) -> Response:
        """Return the preview image of a LoRA."""
        return thumbnail_response(reports.thumbnail(name))


def _add_changes(routes: APIRouter, reports: LoraReports, library: LoraLibrary) -> None:
    @routes.post(ROUTE, status_code=201, dependencies=[Depends(require_admin)])
    async def upload_lora(
        request: Request,
        file: Annotated[UploadFile, File(description="A .safetensors file")],
        name: Annotated[str | None, Form(description="Defaults to the file's own name")] = None,
        replace: Annotated[bool, Form(description="Replace a LoRA of the same name")] = False,
    ) -> LoraView:
        """Store a LoRA under weights/loras; admins only.

        A file that does not fit the model is refused.
        """
        wanted = name or file.filename or ""
        await library.add_upload(wanted, _chunks(file), replace=replace)
        report = await asyncio.to_thread(lambda: reports.full(reports.find(wanted)))
        return lora_view(report, base_url(request))

    @routes.delete(ROUTE + "/{name:path}", status_code=204, dependencies=[Depends(require_admin)])
    async def delete_lora(name: str) -> Response:
        """Delete a LoRA, and the notes and images beside it, from weights/loras; admins only."""
        await asyncio.to_thread(reports.find, name)
        await library.delete(name)
        return Response(status_code=204)


def body_limits(settings: Settings) -> Mapping[str, int]:
    """Allow LoRA uploads up to `max_lora_mb`."""
    return {ROUTE: settings.max_lora_mb * 2**20 + FORM_BYTES}


def lora_view(report: LoraReport, base: str) -> LoraView:
    """Render a report. `base` is the server's URL as the client knows it."""
    values = {field.name: getattr(report, field.name) for field in fields(report)}
    return LoraView.model_validate(values | _derived(report, base))


def _item(lora: LoraEntry, report: LoraReport | str, base: str) -> LoraItem:
    if isinstance(report, str):
        return LoraItem(name=lora.name, size_bytes=lora.size_bytes, fits=False, problem=report)
    shared = LoraItem.model_fields.keys() & {field.name for field in fields(report)}
    values = {name: getattr(report, name) for name in shared}
    return LoraItem.model_validate(values | _derived(report, base))


def _derived(report: LoraReport, base: str) -> dict[str, object]:
    """The values of a view that the report has in another form."""
    url = f"{base}{THUMBNAILS}/{urllib.parse.quote(report.name)}"
    return {
        "fits": report.fits,
        "thumbnail": url if report.has_thumbnail else None,
        "profile": _profile_view(report.profile),
    }


def _profile_view(profile: LoraProfile | None) -> ProfileView | None:
    if profile is None:
        return None
    return ProfileView(sampling=dump_sampling(profile.sampling), is_guess=profile.is_guess)


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk
