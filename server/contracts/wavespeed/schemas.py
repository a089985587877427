"""Request and response bodies of WaveSpeed."""

import datetime
from enum import StrEnum
from typing import Any, Generic, TypeVar

from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from pipelines.api.params import (
    CFG_RANGE,
    MAX_LORAS,
    MAX_REFERENCES,
    SEED_RANGE,
    STEPS_RANGE,
    EditParams,
)
from pipelines.api.sizes import SizeBounds, parse_size
from server.job import OutputFormat
from server.media.inputs import is_inline, is_url
from server.web.fields import LenientModel, LoraItem, lora_refs, seed_or_random

BOUNDS = SizeBounds()
# Higher pages have an offset that the database cannot represent.
MAX_PAGE = 10**9

T = TypeVar("T")


class Status(StrEnum):
    """The provider's statuses. Clients treat only the first two as unfinished."""

    CREATED = "created"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class SubmitRequest(LenientModel):
    """The body of a submit."""

    prompt: str = Field(min_length=1)
    images: list[str] = Field(
        default=[],
        description=f"1–{MAX_REFERENCES} of: URL, data URI, base64",
        json_schema_extra={"minItems": 1, "maxItems": MAX_REFERENCES},
    )
    image: str | None = Field(None, description="An alias of images with one entry")
    size: str | None = Field(None, description=f"W*H, each {BOUNDS}; defaults to the last image's")
    loras: list[LoraItem] = Field(default=[], max_length=MAX_LORAS)
    seed: int = Field(-1, ge=-1, le=SEED_RANGE[1], description="-1: random")
    output_format: OutputFormat = OutputFormat.JPEG
    enable_base64_output: bool = False
    enable_sync_mode: bool = False
    negative_prompt: str | None = None
    num_inference_steps: int | None = Field(None, ge=STEPS_RANGE[0], le=STEPS_RANGE[1])
    guidance_scale: float | None = Field(
        None, ge=CFG_RANGE[0], le=CFG_RANGE[1], description="The true CFG scale"
    )
    webhook_url: str | None = None

    def references(self) -> list[str]:
        """The input images: `images`, or `image` if only that is usable.

        One client sends a local path in `images` beside a usable `image`.
        """
        if self.image and not (self.images and _is_reference(self.images[0])):
            return [self.image]
        return self.images

    def params(self) -> EditParams:
        """Convert to engine parameters. A random seed is drawn here, so that it is stored."""
        return EditParams(
            prompt=self.prompt,
            seed=seed_or_random(self.seed),
            negative_prompt=self.negative_prompt,
            size=parse_size(self.size, BOUNDS) if self.size else None,
            bounds=BOUNDS,
            num_inference_steps=self.num_inference_steps,
            true_cfg_scale=self.guidance_scale,
            loras=lora_refs(self.loras),
        )


class Urls(BaseModel):
    """The URL of the prediction."""

    get: str


class Timings(BaseModel):
    """Milliseconds."""

    inference: int


class Prediction(BaseModel):
    """A task in the provider's shape and order of fields."""

    id: str
    model: str
    outputs: list[str]
    urls: Urls
    has_nsfw_contents: list[bool]
    status: Status
    created_at: str
    error: str
    executionTime: int  # noqa: N815 - the wire's name
    timings: Timings
    code: int = Field(0, description="Business code: 0, or why the task failed or is unfinished")


class Envelope(BaseModel, Generic[T]):
    """The envelope of every success."""

    code: int = 200
    message: str = "success"
    data: T


class HistoryRequest(LenientModel):
    """A filter and page of predictions."""

    page: int = Field(1, ge=1, le=MAX_PAGE)
    page_size: int = Field(20, ge=1, le=100)
    model: str | None = None
    status: Status | None = None
    created_after: datetime.datetime | None = Field(
        None, description="ISO 8601; UTC unless it has a time zone"
    )
    created_before: datetime.datetime | None = None
    include_inputs: bool = False


class HistoryItem(Prediction):
    """A prediction in the list; outputs are URLs even if base64 was requested."""

    inputs: dict[str, Any] | SkipJsonSchema[None] = Field(
        None, exclude_if=lambda value: value is None
    )


class History(BaseModel):
    """A page of predictions, and the total on all pages."""

    page: int
    items: list[HistoryItem]
    total: int


class DeleteRequest(LenientModel):
    """The predictions to delete."""

    ids: list[str] = Field(min_length=1, max_length=1000)


class Deleted(BaseModel):
    """The number of predictions that were deleted."""

    deleted_count: int


def _is_reference(text: str) -> bool:
    return is_url(text) or is_inline(text)
