"""Request and response bodies of OpenAI's clients."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field

from pipelines.api.params import (
    CFG_RANGE,
    MAX_LORAS,
    MAX_OUTPUTS,
    MAX_PREVIEWS,
    SEED_RANGE,
    STEPS_RANGE,
    EditParams,
)
from pipelines.api.sizes import SizeBounds, parse_size
from server.job import OutputFormat
from server.web.fields import LenientModel, LoraItem, lora_refs, seed_or_random

BOUNDS = SizeBounds()
CfgScale = Annotated[float, Field(ge=CFG_RANGE[0], le=CFG_RANGE[1], allow_inf_nan=False)]


class EditRequest(LenientModel):
    """The fields beside the images. Unknown fields are ignored; null and "" count as absent.

    `quality`, `background`, `input_fidelity`, `moderation` and `user` are ignored too: the model
    has no such choice.
    """

    prompt: str = Field(min_length=1)
    model: Any = Field(None, description="Shown in the list of jobs; the loaded model runs")
    n: int = Field(
        1, ge=1, le=MAX_OUTPUTS, description="Number of outputs, with seeds seed, seed+1, …"
    )
    size: str | None = Field(
        None,
        description=f"auto, or WxH, each {BOUNDS}; auto or absent: the last image's aspect ratio",
    )
    response_format: Literal["b64_json", "url"] = "b64_json"
    output_format: OutputFormat = OutputFormat.PNG
    output_compression: int | None = Field(
        None, ge=0, le=100, description="Quality of JPEG and WebP; defaults to 95"
    )
    stream: bool = False
    partial_images: int = Field(
        0, ge=0, le=MAX_PREVIEWS, description="Previews of the first output; needs stream"
    )
    seed: int = Field(-1, ge=-1, le=SEED_RANGE[1], description="-1 or absent: random")
    negative_prompt: str | None = None
    num_inference_steps: int | None = Field(None, ge=STEPS_RANGE[0], le=STEPS_RANGE[1])
    true_cfg_scale: CfgScale | None = None
    guidance_scale: CfgScale | None = Field(None, description="An alias of true_cfg_scale")
    loras: list[LoraItem] = Field(default=[], max_length=MAX_LORAS)
    prompt_extend: bool = Field(False, description="Have the model rewrite the prompt first")

    def params(self, *, shows_previews: bool) -> EditParams:
        """Convert to engine parameters. A random seed is drawn here, so that it is stored."""
        has_size = self.size is not None and self.size.strip().lower() != "auto"
        cfg_scale = self.guidance_scale if self.true_cfg_scale is None else self.true_cfg_scale
        return EditParams(
            prompt=self.prompt,
            seed=seed_or_random(self.seed),
            negative_prompt=self.negative_prompt,
            size=parse_size(self.size, BOUNDS) if self.size and has_size else None,
            bounds=BOUNDS,
            num_inference_steps=self.num_inference_steps,
            true_cfg_scale=cfg_scale,
            num_outputs=self.n,
            loras=lora_refs(self.loras),
            extend_prompt=self.prompt_extend,
            num_previews=self.partial_images if self.stream and shows_previews else 0,
        )


class InputTokens(BaseModel):
    """Always 0: the input is not counted."""

    image_tokens: int = 0
    text_tokens: int = 0


class Usage(BaseModel):
    """Tokens of the outputs, 16×16 pixels each. Nothing is billed; clients require the fields."""

    input_tokens: int = 0
    input_tokens_details: InputTokens = InputTokens()
    output_tokens: int
    total_tokens: int


class Image(BaseModel):
    """An output; `revised_prompt` is set if the model rewrote the prompt."""

    b64_json: str | None = None
    url: str | None = None
    revised_prompt: str | None = None


class ImagesResponse(BaseModel):
    """A finished edit."""

    created: int
    data: list[Image]
    output_format: OutputFormat
    size: str
    usage: Usage


class _ImageEvent(BaseModel):
    b64_json: str
    created_at: int
    size: str
    quality: Literal["auto"] = "auto"
    background: Literal["opaque"] = "opaque"
    output_format: OutputFormat


class PartialImageEvent(_ImageEvent):
    """A preview of the first output at an intermediate step."""

    type: Literal["image_edit.partial_image"] = "image_edit.partial_image"
    partial_image_index: int


class CompletedEvent(_ImageEvent):
    """A finished output and its tokens."""

    type: Literal["image_edit.completed"] = "image_edit.completed"
    usage: Usage
    revised_prompt: str | None = None


class ErrorDetail(BaseModel):
    """An error; `param` is the field that caused it."""

    message: str
    type: Literal["invalid_request_error", "authentication_error", "server_error"]
    param: str | None
    code: str


class ErrorBody(BaseModel):
    """The envelope of every error: the SDK shows the message of no other shape."""

    error: ErrorDetail


class ErrorEvent(ErrorBody):
    """An error after the stream has started."""

    type: Literal["error"] = "error"


class ModelView(BaseModel):
    """The loaded model."""

    id: str
    object: Literal["model"] = "model"
    created: int
    owned_by: str = "qwen-edit-server"


class ModelList(BaseModel):
    """The available models: the loaded one."""

    object: Literal["list"] = "list"
    data: list[ModelView]
