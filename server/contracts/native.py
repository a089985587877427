"""The server's own contract, `/v1`: what the command line and the page use."""

import secrets
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from fastapi.sse import EventSourceResponse, ServerSentEvent
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from pipelines.params import (
    CFG_RANGE,
    LORA_SCALE_RANGE,
    MAX_LORAS,
    MAX_OUTPUTS,
    SEED_RANGE,
    STEPS_RANGE,
    EditParams,
    LoraRef,
)
from pipelines.sizes import SizeBounds, parse_size
from server.client_request import base_url, unless_hung_up
from server.edit_service import EditService, Submission, output_url
from server.errors import InvalidRequest
from server.job import Job, JobStatus, OutputFormat
from server.job_queue import JobState
from server.problem import Problem
from server.store.jobs import JobFilter

NAME = "native"
ENDPOINT = "edits"
BOUNDS = SizeBounds(256, 1536)
MAX_WAIT_S = 600.0


class LoraItem(BaseModel):
    """One LoRA: a file name under weights/loras or a URL, and its strength."""

    model_config = ConfigDict(extra="forbid")

    path: str = Field(min_length=1)
    scale: Annotated[
        float, Field(ge=LORA_SCALE_RANGE[0], le=LORA_SCALE_RANGE[1], allow_inf_nan=False)
    ] = 1.0


class EditRequest(BaseModel):
    """The body of POST /v1/edits. An unknown field is refused: a typo must not pass unseen."""

    model_config = ConfigDict(extra="forbid")

    prompt: str = Field(min_length=1)
    images: list[str] = Field(default=[], description="1–3 of: URL, data URI, base64")
    negative_prompt: str | None = None
    size: str | None = Field(None, description="W*H, each 256–1536; absent: the last image's")
    loras: list[LoraItem] = Field(default=[], max_length=MAX_LORAS)
    seed: int | None = Field(None, ge=-1, le=SEED_RANGE[1], description="-1 or absent draws one")
    n: int = Field(1, ge=1, le=MAX_OUTPUTS, description="Outputs, with seeds seed, seed+1, …")
    num_inference_steps: int | None = Field(None, ge=STEPS_RANGE[0], le=STEPS_RANGE[1])
    true_cfg_scale: float | None = Field(None, ge=CFG_RANGE[0], le=CFG_RANGE[1])
    output_format: OutputFormat = OutputFormat.PNG

    def params(self) -> EditParams:
        """What the engine needs; a random seed is drawn here, once, so that it can be kept."""
        drawn = secrets.randbelow(SEED_RANGE[1] + 1) if self.seed in (None, -1) else self.seed
        return EditParams(
            prompt=self.prompt,
            seed=drawn or 0,
            negative_prompt=self.negative_prompt,
            size=parse_size(self.size, BOUNDS) if self.size else None,
            bounds=BOUNDS,
            num_inference_steps=self.num_inference_steps,
            true_cfg_scale=self.true_cfg_scale,
            num_outputs=self.n,
            loras=tuple(LoraRef(lora.path, lora.scale) for lora in self.loras),
        )


class OutputView(BaseModel):
    """One finished picture."""

    url: str
    content_type: str
    size_bytes: int
    width: int
    height: int
    seed: int


class ErrorView(BaseModel):
    """Why a job failed."""

    code: str
    message: str


class EditView(BaseModel):
    """A job. `position` counts the waiting jobs ahead; `step` of `steps` are done while it runs."""

    id: str
    status: JobStatus
    contract: str
    model: str
    prompt: str
    seed: int
    position: int | None
    stage: str | None
    step: int | None
    steps: int | None
    created_at: float
    started_at: float | None
    finished_at: float | None
    seconds: dict[str, float]
    outputs: list[OutputView]
    error: ErrorView | None


class EditPage(BaseModel):
    """A page of jobs, newest first."""

    items: list[EditView]
    total: int
    limit: int
    offset: int


def router(service: EditService, *, public_url: str | None) -> APIRouter:
    """The routes of this contract."""
    routes = APIRouter(prefix="/v1", tags=["native"])

    async def found(edit_id: str) -> JobState:
        return await service.state(edit_id)

    def view(request: Request, state: JobState) -> EditView:
        return edit_view(state, base_url(request, public_url))

    @routes.post("/edits", status_code=201, openapi_extra=_request_body())
    async def create_edit(
        request: Request, wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0
    ) -> EditView:
        """Queue an edit. With `wait`, answer when it is done or after so many seconds.

        A client that hangs up while it waits cancels the job.
        """
        body, files = await _read_body(request)
        job = await service.submit(
            Submission(NAME, ENDPOINT, body.params(), [*body.images, *files], body.output_format)
        )
        if wait:
            waited = await unless_hung_up(request, service.wait(job.id, wait))
            job = waited or await service.cancel(job.id)
        return view(request, await service.state_of(job))

    @routes.get("/edits")
    async def list_edits(
        request: Request,
        status: Annotated[list[JobStatus] | None, Query()] = None,
        limit: Annotated[int, Query(ge=1, le=100)] = 20,
        offset: Annotated[int, Query(ge=0, le=2**31)] = 0,
    ) -> EditPage:
        """The jobs of every contract, newest first."""
        wanted = JobFilter(statuses=tuple(status) if status else None)
        jobs, total = await service.search(wanted, limit=limit, offset=offset)
        items = [view(request, await service.state_of(job)) for job in jobs]
        return EditPage(items=items, total=total, limit=limit, offset=offset)

    @routes.get("/edits/{edit_id}")
    async def get_edit(request: Request, state: Annotated[JobState, Depends(found)]) -> EditView:
        """One job as it is now."""
        return view(request, state)

    @routes.get("/edits/{edit_id}/events", response_class=EventSourceResponse)
    async def stream_edit(
        request: Request, state: Annotated[JobState, Depends(found)]
    ) -> AsyncIterator[ServerSentEvent]:
        """The job as it is now and after each change, the last event being its end."""
        async for update in service.watch(state.job.id):
            yield ServerSentEvent(event="edit", data=view(request, update))

    @routes.delete("/edits/{edit_id}", responses={204: {"description": "Deleted"}})
    async def delete_edit(request: Request, state: Annotated[JobState, Depends(found)]) -> Response:
        """Cancel an unfinished job (202), or delete a finished one with its files (204)."""
        if state.job.status.is_final:
            await service.delete(state.job)
            return Response(status_code=204)
        job = await service.cancel(state.job.id)
        answer = view(request, await service.state_of(job))
        return JSONResponse(answer.model_dump(mode="json"), 202)

    return routes


def edit_view(state: JobState, base: str) -> EditView:
    """The job as this contract shows it. `base` is the server's address as the client knows it."""
    job, progress = state.job, state.progress
    steps = job.num_inference_steps
    total = steps * job.params.num_outputs if steps else None
    return EditView(
        id=job.id,
        status=job.status,
        contract=job.contract,
        model=job.endpoint,
        prompt=job.params.prompt,
        seed=job.params.seed,
        position=state.position,
        stage=progress.stage if progress else None,
        step=progress.step if progress else total,
        steps=progress.total if progress else total,
        created_at=job.created_at,
        started_at=job.started_at,
        finished_at=job.finished_at,
        seconds=dict(job.seconds),
        outputs=_outputs(job, base),
        error=ErrorView(code=job.error.code, message=job.error.message) if job.error else None,
    )


def render(problem: Problem) -> JSONResponse:
    """An error in this contract's shape."""
    error = {"code": problem.code, "message": problem.message, "field": problem.field}
    return JSONResponse({"error": error}, problem.status, headers=problem.headers)


def _outputs(job: Job, base: str) -> list[OutputView]:
    return [
        OutputView(
            url=output_url(base, output),
            content_type=output.content_type,
            size_bytes=output.size_bytes,
            width=output.width,
            height=output.height,
            seed=output.seed,
        )
        for output in job.outputs
    ]


async def _read_body(request: Request) -> tuple[EditRequest, list[bytes]]:
    """The request from JSON, or from a form whose `image` parts are files."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    try:
        if kind == "application/json":
            return EditRequest.model_validate_json(await request.body()), []
        if kind == "multipart/form-data":
            async with request.form() as form:
                body = EditRequest.model_validate(_form_fields(form))
                parts = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
                return body, [await part.read() for part in parts]
    except ValidationError as exc:
        raise RequestValidationError(exc.errors()) from exc
    raise InvalidRequest(
        f"the body must be application/json or multipart/form-data, got {kind or 'neither'}",
        field="content-type",
    )


def _form_fields(form: FormData) -> dict[str, Any]:
    """The text parts: `images` and `loras` may repeat; a LoRA is written `path` or `path:scale`."""
    fields: dict[str, Any] = {}
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            continue
        if name in ("images", "loras"):
            fields.setdefault(name, []).append(_lora(value) if name == "loras" else value)
        else:
            fields[name] = value
    return fields


def _lora(text: str) -> dict[str, str]:
    path, colon, scale = text.rpartition(":")
    if colon and scale.replace(".", "", 1).removeprefix("-").isdigit():
        return {"path": path, "scale": scale}
    return {"path": text}


def _request_body() -> dict[str, Any]:
    """The OpenAPI of the two body types, which FastAPI cannot derive from one parameter."""
    schema = EditRequest.model_json_schema(ref_template="#/components/schemas/{model}")
    schema.pop("$defs", None)
    schema["properties"]["loras"]["items"] = LoraItem.model_json_schema()
    form = {
        **schema,
        "properties": {
            **schema["properties"],
            "image": {"type": "array", "items": {"type": "string", "format": "binary"}},
            "loras": {"type": "array", "items": {"type": "string"}, "description": "path:scale"},
        },
    }
    content = {"application/json": schema, "multipart/form-data": form}
    return {
        "requestBody": {
            "required": True,
            "content": {kind: {"schema": value} for kind, value in content.items()},
        }
    }
