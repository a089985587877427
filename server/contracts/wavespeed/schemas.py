"""What WaveSpeed's clients send and receive."""

import datetime
import secrets
from enum import StrEnum
from typing import Annotated, Any, Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.json_schema import SkipJsonSchema

from pipelines.api.params import (
    CFG_RANGE,
    LORA_SCALE_RANGE,
    MAX_LORAS,
    MAX_REFERENCES,
    SEED_RANGE,
    STEPS_RANGE,
    EditParams,
    LoraRef,
)
from pipelines.api.sizes import SizeBounds, parse_size
from server.job import OutputFormat
from server.media.inputs import is_inline, is_url

BOUNDS = SizeBounds()
# Beyond it, a page's place is no number for the database.
MAX_PAGE = 10**9

T = TypeVar("T")


class Status(StrEnum):
    """The provider's words; while a task is unfinished, clients know the first two only."""

    CREATED = "created"
    PROCESSING = "processing"
    COMPLETED = "completed"
    FAILED = "failed"


class LoraItem(BaseModel):
    """One LoRA: a file name under weights/loras or a URL, and its strength."""

    path: str = Field(min_length=1)
    scale: Annotated[
        float, Field(ge=LORA_SCALE_RANGE[0], le=LORA_SCALE_RANGE[1], allow_inf_nan=False)
    ] = 1.0


class LenientModel(BaseModel):
    """Unknown fields are tolerated; a null or "" counts as absent."""

    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: value
            for key, value in data.items()
            if key == "prompt" or (value is not None and value != "")
        }


class SubmitRequest(LenientModel):
    """The body of a submit."""

    prompt: str = Field(min_length=1)
    images: list[str] = Field(
        default=[],
        description=f"1–{MAX_REFERENCES} of: URL, data URI, base64",
        json_schema_extra={"minItems": 1, "maxItems": MAX_REFERENCES},
    )
    image: str | None = Field(None, description="The same as images with this one entry")
    size: str | None = Field(None, description=f"W*H, each {BOUNDS}; absent: the last image's")
    loras: list[LoraItem] = Field(default=[], max_length=MAX_LORAS)
    seed: int = Field(-1, ge=-1, le=SEED_RANGE[1], description="-1 draws one")
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
        """The input images: `images`, or the lone `image` where that is what can be meant.

        One client sends a path of its own machine in `images` beside a usable `image`.
        """
        if self.image and not (self.images and _is_reference(self.images[0])):
            return [self.image]
        return self.images

    def params(self) -> EditParams:
        """What the engine needs; a random seed is drawn here, once, so that it can be kept."""
        return EditParams(
            prompt=self.prompt,
            seed=secrets.randbelow(SEED_RANGE[1] + 1) if self.seed == -1 else self.seed,
            negative_prompt=self.negative_prompt,
            size=parse_size(self.size, BOUNDS) if self.size else None,
            bounds=BOUNDS,
            num_inference_steps=self.num_inference_steps,
            true_cfg_scale=self.guidance_scale,
            loras=tuple(LoraRef(lora.path, lora.scale) for lora in self.loras),
        )


class Urls(BaseModel):
    """Where to ask for the prediction."""

    get: str


class Timings(BaseModel):
    """Milliseconds."""

    inference: int


class Prediction(BaseModel):
    """A task as the provider shows it; the order of the fields is the provider's."""

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
    code: int = Field(0, description="Business code: 0, or why a task failed or is not done yet")


class Envelope(BaseModel, Generic[T]):
    """What every success is wrapped in."""

    code: int = 200
    message: str = "success"
    data: T


class HistoryRequest(LenientModel):
    """Which predictions to list."""

    page: int = Field(1, ge=1, le=MAX_PAGE)
    page_size: int = Field(20, ge=1, le=100)
    model: str | None = None
    status: Status | None = None
    created_after: datetime.datetime | None = Field(
        None, description="ISO 8601; without a zone it is UTC"
    )
    created_before: datetime.datetime | None = None
    include_inputs: bool = False


class HistoryItem(Prediction):
    """A prediction in the list; outputs are URLs also where base64 was asked for."""

    inputs: dict[str, Any] | SkipJsonSchema[None] = Field(
        None, exclude_if=lambda value: value is None
    )


class History(BaseModel):
    """A page of predictions, and how many there are on all pages."""

    page: int
    items: list[HistoryItem]
    total: int


class DeleteRequest(BaseModel):
    """Which predictions to delete."""

    ids: list[str] = Field(min_length=1, max_length=1000)


class Deleted(BaseModel):
    """How many predictions were there to be deleted."""

    deleted_count: int


def _is_reference(text: str) -> bool:
    return is_url(text) or is_inline(text)
