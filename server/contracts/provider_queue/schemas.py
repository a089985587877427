"""Request bodies: the provider's fields, and fal's on fal's endpoints."""

import dataclasses
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    Field,
    WithJsonSchema,
)

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.params import (
    CFG_RANGE,
    MAX_LORAS,
    MAX_OUTPUTS,
    MAX_PROMPT_CHARS,
    MAX_REFERENCES,
    SEED_RANGE,
    STEPS_RANGE,
    EditParams,
)
from pipelines.api.sizes import SizeBounds, parse_size
from server.job import OutputFormat
from server.web.fields import LenientModel, LoraItem, lora_refs, seed_or_random

BOUNDS = SizeBounds(512, 2048)
MAX_PROMPT_TOKENS = 800
MAX_NEGATIVE_CHARS = 500
MAX_FAL_IMAGES = 4
WATERMARK = "Qwen-Image"
NAMED_SIZES = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}
References = Annotated[list[str], Field(max_length=MAX_REFERENCES)]
Side = Annotated[int, Field(ge=BOUNDS.min_side, le=BOUNDS.max_side)]


class ImageSize(BaseModel):
    """Width and height in pixels, rounded to the nearest multiple of 16."""

    width: Side
    height: Side


class EditRequest(LenientModel):
    """The body of a submit. Unknown fields are ignored; null and "" count as absent."""

    prompt: str = Field(min_length=1, description=f"Truncated to {MAX_PROMPT_TOKENS} tokens")
    images: References = Field(
        default=[], description=f"1–{MAX_REFERENCES} of: URL, data URI, base64"
    )
    negative_prompt: str | None = Field(
        None, description=f"Truncated to {MAX_NEGATIVE_CHARS} characters"
    )
    size: str | None = Field(None, description=f"W*H, each {BOUNDS}; defaults to the last image's")
    n: int = Field(
        1, ge=1, le=MAX_OUTPUTS, description="Number of outputs, with seeds seed, seed+1, …"
    )
    prompt_extend: bool = Field(True, description="Have the model rewrite the prompt first")
    watermark: bool = Field(False, description='"Qwen-Image" in the lower right corner')
    seed: int | None = Field(
        None, ge=SEED_RANGE[0], le=SEED_RANGE[1], description="Random by default"
    )
    loras: list[LoraItem] = Field(default=[], max_length=MAX_LORAS)

    @property
    def images_field(self) -> str:
        """The name of the field with the input images."""
        return "images"

    def references(self) -> list[str]:
        """The input images."""
        return self.images

    def params(self) -> EditParams:
        """Convert to engine parameters. A random seed is drawn here, so that it is stored."""
        return EditParams(
            # far more than the allowed tokens of any natural text; the pipeline counts them
            prompt=self.prompt[:MAX_PROMPT_CHARS],
            seed=seed_or_random(self.seed),
            negative_prompt=self.negative_prompt and self.negative_prompt[:MAX_NEGATIVE_CHARS],
            size=_nearest(*parse_size(self.size, BOUNDS)) if self.size else None,
            bounds=BOUNDS,
            num_outputs=self.n,
            loras=lora_refs(self.loras),
            max_prompt_tokens=MAX_PROMPT_TOKENS,
            extend_prompt=self.prompt_extend,
        )


def _sides(value: Any) -> Any:
    """Resolve one of fal's size names to width and height."""
    if not isinstance(value, str):
        return value
    if value not in NAMED_SIZES:
        raise ValueError(f"must be {{width, height}} or one of {', '.join(NAMED_SIZES)}")
    width, height = NAMED_SIZES[value]
    return {"width": width, "height": height}


FalImageSize = Annotated[
    ImageSize,
    BeforeValidator(_sides),
    WithJsonSchema(
        {"anyOf": [ImageSize.model_json_schema(), {"type": "string", "enum": list(NAMED_SIZES)}]}
    ),
]


class FalEditRequest(EditRequest):
    """The body of a submit on fal's endpoints. fal's field names win over the provider's."""

    image_urls: References = Field(default=[])
    image_url: str | None = Field(None, description="An alias of image_urls with one entry")
    image_size: FalImageSize | None = None
    num_images: int | None = Field(None, ge=1, le=MAX_FAL_IMAGES)
    num_inference_steps: int | None = Field(None, ge=STEPS_RANGE[0], le=STEPS_RANGE[1])
    guidance_scale: float | None = Field(
        None, ge=CFG_RANGE[0], le=CFG_RANGE[1], allow_inf_nan=False, description="True CFG scale"
    )
    output_format: OutputFormat = OutputFormat.PNG
    sync_mode: bool = Field(False, description="Return data URIs instead of URLs")
    enable_safety_checker: bool = Field(True, description="Ignored; the operator decides")
    acceleration: Literal["none", "regular", "high"] = Field("none", description="Ignored")
    prompt_extend: bool = Field(False, description="Have the model rewrite the prompt first")
    negative_prompt: str | None = None

    @property
    def images_field(self) -> str:
        """The name of the field with the input images."""
        return "images" if self.images and not self._fal_references() else "image_urls"

    def references(self) -> list[str]:
        """The input images."""
        return self._fal_references() or self.images

    def params(self) -> EditParams:
        """Convert to engine parameters; fal's fields win."""
        params = super().params()
        size = self.image_size
        return dataclasses.replace(
            params,
            negative_prompt=self.negative_prompt and self.negative_prompt[:MAX_PROMPT_CHARS],
            size=_nearest(size.width, size.height) if size else params.size,
            num_outputs=self.num_images or self.n,
            num_inference_steps=self.num_inference_steps,
            true_cfg_scale=self.guidance_scale,
        )

    def _fal_references(self) -> list[str]:
        return self.image_urls or ([self.image_url] if self.image_url else [])


def _nearest(width: int, height: int) -> tuple[int, int]:
    """Round to the nearest size that the model can make, up from halfway."""
    multiple = QWEN_IMAGE_EDIT_PLUS.sizes.pixels_per_token
    half = multiple // 2
    return (width + half) // multiple * multiple, (height + half) // multiple * multiple
