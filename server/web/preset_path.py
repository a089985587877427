"""The preset that ends the path of a submit."""

from typing import Annotated

from fastapi import Path, Request

PRESET = "{preset}"


def declare_preset(preset: Annotated[str, Path(description="A name of GET /v1/presets")]) -> None:
    """Declare the part of the path in OpenAPI; `preset_of` reads it."""


def preset_of(request: Request) -> str | None:
    """Return the preset in the request's path, or None where the path has none."""
    preset: str | None = request.path_params.get("preset")
    return preset
