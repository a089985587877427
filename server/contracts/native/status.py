"""`/health` and `/v1/capabilities`."""

from typing import Literal

from fastapi import APIRouter, Response
from pydantic import BaseModel

from pipelines.api.errors import without_paths
from pipelines.api.messages import Ready
from pipelines.api.params import (
    CFG_RANGE,
    LORA_SCALE_RANGE,
    MAX_LORAS,
    MAX_OUTPUTS,
    MAX_REFERENCES,
    SEED_RANGE,
    STEPS_RANGE,
)
from pipelines.api.sizes import SizeBounds
from server.job import JobStatus, OutputFormat
from server.limits import MAX_IMAGE_BYTES
from server.media.images import FORMATS, MAX_ASPECT, MAX_PIXELS, MAX_PIXELS_BY_FORMAT, MIN_SIDE
from server.version import VERSION
from server.web.contract import Services
from server.workers.executor import ExecutorState


class ModelName(BaseModel):
    """The loaded model."""

    name: str
    is_demo: bool
    warning: str | None


class ForwardView(BaseModel):
    """The code that runs the transformer: `fast` or, for a reason, `stock`."""

    name: str
    reason: str | None


class ModelView(ModelName):
    """The loaded model, why it was chosen, and its device."""

    why: str
    device: str | None
    device_name: str | None
    dtype: str | None
    forward: ForwardView | None


class Health(BaseModel):
    """`status` is `failed` while no model can be loaded or no end of a job can be stored.

    Jobs stay on disk, and both are retried; `error` has the reason.
    """

    status: ExecutorState
    model: ModelName
    waiting: int
    running: int
    error: str | None
    forward: ForwardView | None


class Liveness(BaseModel):
    """The answer of a server that runs."""

    status: Literal["live"]


class ReadinessView(BaseModel):
    """`reason` says why the server takes no jobs now; it is None when it does."""

    is_ready: bool
    reason: str | None


class Profile(BaseModel):
    """The sampling defaults of requests that set none."""

    name: Literal["quality"]
    num_inference_steps: int | None
    true_cfg_scale: float | None


class Range(BaseModel):
    """A range that includes both ends."""

    min: float
    max: float


class Bounds(BaseModel):
    """The limits of a request."""

    size: Range
    images: Range
    image_side_min: int
    image_aspect_max: int
    image_pixels_max: int
    image_pixels_max_by_format: dict[str, int]
    image_bytes_max: int
    image_formats: list[str]
    loras_max: int
    lora_scale: Range
    seed: Range
    n: Range
    num_inference_steps: Range
    true_cfg_scale: Range
    output_formats: list[OutputFormat]


class LoraView(BaseModel):
    """A LoRA under weights/loras. Requests name it by `name`, as a LoRA's `path`."""

    name: str
    size_bytes: int


class Capabilities(BaseModel):
    """The model, limits and LoRAs of this server."""

    version: str
    model: ModelView
    profile: Profile
    bounds: Bounds
    loras: list[LoraView]
    checks_safety: bool
    can_extend_prompts: bool


def health_router(services: Services) -> APIRouter:
    """Return `/health`, which requires no key: it names the model but no path."""
    routes = APIRouter(tags=["status"])

    @routes.get("/health")
    async def health() -> Health:
        """Report whether the server can run jobs. Always 200: `status` has the answer."""
        model = _model_view(services)
        storage_failure = services.queue.storage_failure
        return Health(
            status=ExecutorState.FAILED if storage_failure else services.executor.state,
            model=ModelName.model_validate(model, from_attributes=True),
            waiting=await services.queue.count(JobStatus.QUEUED),
            running=await services.queue.count(JobStatus.RUNNING),
            error=storage_failure or services.executor.failure,
            forward=model.forward,
        )

    @routes.get("/health/live")
    async def live() -> Liveness:
        """Report that the server answers."""
        return Liveness(status="live")

    @routes.get("/health/ready", responses={503: {"model": ReadinessView}})
    async def ready(response: Response) -> ReadinessView:
        """Report whether the server takes jobs now: 200, or 503 and the reason."""
        reason = _unready_reason(services)
        response.status_code = 200 if reason is None else 503
        return ReadinessView(is_ready=reason is None, reason=reason)

    return routes


def _unready_reason(services: Services) -> str | None:
    reason = services.readiness.reason or services.queue.storage_failure
    if reason is not None:
        return reason
    match services.executor.state:
        case ExecutorState.STARTING:
            return "The model is being loaded."
        case ExecutorState.FAILED:
            return "The model could not be loaded; the server's log has the reason."
    return None


def capabilities_router(services: Services) -> APIRouter:
    """Return `/v1/capabilities`."""
    routes = APIRouter(tags=["status"])

    @routes.get("/v1/capabilities")
    def capabilities() -> Capabilities:
        """Return the model, the limits of a request, and the LoRAs."""
        loaded = services.executor.model
        spec = loaded.model if loaded else None
        return Capabilities(
            version=VERSION,
            model=_model_view(services),
            profile=Profile(
                name="quality",
                num_inference_steps=spec.num_inference_steps if spec else None,
                true_cfg_scale=spec.true_cfg_scale if spec else None,
            ),
            bounds=_bounds(),
            loras=[
                LoraView(name=lora.name, size_bytes=lora.size_bytes)
                for lora in services.catalog.loras()
            ],
            checks_safety=loaded is not None and loaded.checks_safety,
            can_extend_prompts=loaded is not None and loaded.can_extend_prompts,
        )

    return routes


def _model_view(services: Services) -> ModelView:
    choice, loaded = services.choice, services.executor.model
    return ModelView(
        name=services.model_name,
        why=without_paths(choice.why),
        is_demo=choice.is_demo,
        warning=choice.warning,
        device=loaded.device if loaded else None,
        device_name=loaded.device_name if loaded else None,
        dtype=loaded.dtype if loaded else None,
        forward=_forward_view(loaded),
    )


def _forward_view(loaded: Ready | None) -> ForwardView | None:
    if loaded is None:
        return None
    reason = loaded.forward_reason
    return ForwardView(name=loaded.forward, reason=without_paths(reason) if reason else None)


def _bounds() -> Bounds:
    sizes = SizeBounds()
    return Bounds(
        size=Range(min=sizes.min_side, max=sizes.max_side),
        images=Range(min=1, max=MAX_REFERENCES),
        image_side_min=MIN_SIDE,
        image_aspect_max=MAX_ASPECT,
        image_pixels_max=MAX_PIXELS,
        image_pixels_max_by_format=MAX_PIXELS_BY_FORMAT,
        image_bytes_max=MAX_IMAGE_BYTES,
        image_formats=list(FORMATS),
        loras_max=MAX_LORAS,
        lora_scale=_range(LORA_SCALE_RANGE),
        seed=_range(SEED_RANGE),
        n=Range(min=1, max=MAX_OUTPUTS),
        num_inference_steps=_range(STEPS_RANGE),
        true_cfg_scale=_range(CFG_RANGE),
        output_formats=list(OutputFormat),
    )


def _range(ends: tuple[float, float]) -> Range:
    return Range(min=ends[0], max=ends[1])
