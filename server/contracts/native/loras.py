"""`/v1/loras`: list, inspect, upload, delete."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import fields
from typing import Annotated, Any

from fastapi import APIRouter, Depends, File, Form, Response, UploadFile
from pydantic import BaseModel, ConfigDict

from pipelines.api.errors import LoraInvalid, LoraNotFound
from pipelines.api.families import Linears
from pipelines.api.profiles import LoraProfile
from pipelines.api.sampling import dump_sampling
from pipelines.files.architecture import read_linears
from pipelines.files.catalog import Catalog, LoraEntry
from pipelines.files.lora_format.report import inspect_lora
from pipelines.files.lora_profiles import read_profile
from pipelines.files.safetensors_header import read_header
from server.errors import NotFound
from server.settings import Settings
from server.web.auth import require_admin
from server.web.contract import Services

ROUTE = "/v1/loras"
CHUNK_BYTES = 1024 * 1024
# Room for the other parts of a form beside the file in it.
FORM_BYTES = 64 * 1024


class ProfileView(BaseModel):
    """How requests with the LoRA are sampled where they leave it open."""

    sampling: dict[str, Any]
    is_guess: bool


class LoraItem(BaseModel):
    """A LoRA under weights/loras. Requests name it by `name`, as a LoRA's `path`."""

    name: str
    size_bytes: int
    profile: ProfileView | None


class LoraList(BaseModel):
    """All LoRAs, sorted by name."""

    items: list[LoraItem]


class LoraView(BaseModel):
    """A summary of a LoRA file; `problem` says why it does not fit the loaded model."""

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
    metadata: Mapping[str, str]
    profile: ProfileView | None
    warnings: tuple[str, ...]


def router(services: Services) -> APIRouter:
    """Return the routes under `/v1/loras`."""
    routes = APIRouter(prefix=ROUTE, tags=["native"])
    catalog, library = services.catalog, services.library

    def report(entry: LoraEntry) -> LoraView:
        found = inspect_lora(entry.path, _linears(services), entry.name)
        values = {field.name: getattr(found, field.name) for field in fields(found)}
        profile = _profile_view(found.profile)
        return LoraView.model_validate(values | {"fits": found.fits, "profile": profile})

    def found(name: str) -> LoraEntry:
        return _find(catalog, name)

    @routes.get("")
    def list_loras() -> LoraList:
        """List the LoRAs under weights/loras, including files added since the start."""
        return LoraList(items=[_item(lora) for lora in catalog.loras()])

    @routes.get("/{name:path}")
    def get_lora(name: str) -> LoraView:
        """Return layout, family, ranks, trigger words, and whether the LoRA fits the model."""
        return report(found(name))

    @routes.post("", status_code=201, dependencies=[Depends(require_admin)])
    async def upload_lora(
        file: Annotated[UploadFile, File(description="A .safetensors file")],
        name: Annotated[str | None, Form(description="Defaults to the file's own name")] = None,
        replace: Annotated[bool, Form(description="Replace a LoRA of the same name")] = False,
    ) -> LoraView:
        """Store a LoRA under weights/loras; admins only.

        A file that does not fit the model is refused.
        """
        wanted = name or file.filename or ""
        await library.add_upload(wanted, _chunks(file), replace=replace)
        return await asyncio.to_thread(lambda: report(found(wanted)))

    @routes.delete("/{name:path}", status_code=204, dependencies=[Depends(require_admin)])
    async def delete_lora(name: str) -> Response:
        """Delete a LoRA from weights/loras; admins only."""
        await asyncio.to_thread(found, name)
        await library.delete(name)
        return Response(status_code=204)

    return routes


def body_limits(settings: Settings) -> Mapping[str, int]:
    """Allow LoRA uploads up to `max_lora_mb`."""
    return {ROUTE: settings.max_lora_mb * 2**20 + FORM_BYTES}


def _linears(services: Services) -> Linears:
    """Return the linear layers of the loaded model, or read those of the one being loaded."""
    loaded = services.executor.model
    return loaded.linears if loaded else read_linears(services.choice.path)


def _item(lora: LoraEntry) -> LoraItem:
    try:
        metadata = read_header(lora.path, lora.name).metadata
        profile = read_profile(lora.path, lora.name, metadata, lora.name)
    except (LoraInvalid, OSError):
        profile = None  # its own view says what is wrong with it
    return LoraItem(name=lora.name, size_bytes=lora.size_bytes, profile=_profile_view(profile))


def _profile_view(profile: LoraProfile | None) -> ProfileView | None:
    if profile is None:
        return None
    return ProfileView(sampling=dump_sampling(profile.sampling), is_guess=profile.is_guess)


def _find(catalog: Catalog, name: str) -> LoraEntry:
    try:
        entry = catalog.resolve_lora(name)
    except LoraNotFound as exc:
        raise NotFound(str(exc)) from exc
    if not isinstance(entry, LoraEntry):
        raise NotFound(f"There is no LoRA {name!r} under weights/loras.")
    return entry


async def _chunks(file: UploadFile) -> AsyncIterator[bytes]:
    while chunk := await file.read(CHUNK_BYTES):
        yield chunk
