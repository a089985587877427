"""`/v1/presets`: the presets that requests can name."""

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict

from server.web.contract import Services


class PresetItem(BaseModel):
    """A preset. Requests name it by `name`; `problem` says why it cannot be used."""

    model_config = ConfigDict(from_attributes=True)

    name: str
    title: str
    problem: str | None


class PresetList(BaseModel):
    """All presets, sorted by name."""

    items: list[PresetItem]


def router(services: Services) -> APIRouter:
    """Return the list."""
    routes = APIRouter(tags=["native"])

    @routes.get("/v1/presets")
    def list_presets() -> PresetList:
        """List the presets, including those added since the start."""
        items = [PresetItem.model_validate(entry) for entry in services.presets.entries()]
        return PresetList(items=items)

    return routes
