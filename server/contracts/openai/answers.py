"""Jobs as OpenAI's responses and stream events."""

import asyncio
import base64
import math

import PIL.Image

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.messages import Preview
from server.contracts.openai.schemas import (
    CompletedEvent,
    Image,
    ImagesResponse,
    PartialImageEvent,
    Usage,
)
from server.job import Job, Output
from server.jobs.service import EditService, output_url
from server.media.outputs import encode


async def images_response(service: EditService, job: Job, base: str) -> bytes:
    """Return a succeeded job as JSON. `base` is the server's URL as the client knows it."""
    request = job.request
    files = [await service.outputs.read(o) for o in job.outputs] if request.base64_output else []

    def write() -> bytes:
        revised = _revised_prompt(job)
        if request.base64_output:
            data = [Image(b64_json=_base64(file), revised_prompt=revised) for file in files]
        else:
            data = [
                Image(url=output_url(base, output), revised_prompt=revised)
                for output in job.outputs
            ]
        answer = ImagesResponse(
            created=round(job.finished_at or job.created_at),
            data=data,
            output_format=request.output_format,
            size=_size(job.outputs[0]),
            usage=usage(job.outputs),
        )
        return answer.model_dump_json(exclude_none=True).encode()

    # up to 30 MB of text would block the event loop
    return await asyncio.to_thread(write)


async def partial_image(job: Job, preview: Preview, now: float) -> str:
    """Return the data of a preview event, encoded in the format of the outputs."""

    def write() -> str:
        request, size = job.request, (preview.width, preview.height)
        image = PIL.Image.frombytes("RGB", size, preview.rgb)
        file = encode(image, request.output_format, {"preview": preview.index}, request.quality)
        return PartialImageEvent(
            b64_json=_base64(file),
            created_at=round(now),
            size=f"{preview.width}x{preview.height}",
            output_format=request.output_format,
            partial_image_index=preview.index,
        ).model_dump_json()

    return await asyncio.to_thread(write)


async def completed(service: EditService, job: Job, output: Output) -> str:
    """Return the data of a finished output's event."""
    file = await service.outputs.read(output)

    def write() -> str:
        return CompletedEvent(
            b64_json=_base64(file),
            created_at=round(job.finished_at or job.created_at),
            size=_size(output),
            output_format=job.request.output_format,
            usage=usage((output,)),
            revised_prompt=_revised_prompt(job),
        ).model_dump_json(exclude_none=True)

    return await asyncio.to_thread(write)


def usage(outputs: tuple[Output, ...]) -> Usage:
    """Count the tokens of outputs, 16×16 pixels each."""
    sizes = QWEN_IMAGE_EDIT_PLUS.sizes
    grids = [sizes.grid(*sizes.token_size(output.width, output.height)) for output in outputs]
    tokens = sum(map(math.prod, grids))
    return Usage(output_tokens=tokens, total_tokens=tokens)


def _revised_prompt(job: Job) -> str | None:
    return job.outcome.used_prompt if job.outcome and job.outcome.is_prompt_extended else None


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _size(output: Output) -> str:
    return f"{output.width}x{output.height}"
