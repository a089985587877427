"""WaveSpeed's list of predictions, and their deletion."""

import datetime

from fastapi import APIRouter, Request

from server.caller import Caller
from server.contracts.wavespeed.codes import NAME, STATUSES
from server.contracts.wavespeed.schemas import (
    Deleted,
    DeleteRequest,
    Envelope,
    History,
    HistoryItem,
    HistoryRequest,
)
from server.contracts.wavespeed.views import listed
from server.errors import NotFound
from server.job import Job
from server.store.jobs import JobFilter
from server.web.auth import caller
from server.web.contract import Services
from server.web.request import base_url

# Shown for an image that was sent inline: it is deleted when its job ends.
INLINE = "(inline)"


def router(services: Services) -> APIRouter:
    """Return the routes. Jobs of other contracts are neither shown nor deleted."""
    service = services.edits
    routes = APIRouter(prefix="/api/v3/predictions")

    @routes.post("")
    async def list_predictions(request: Request, body: HistoryRequest) -> Envelope[History]:
        """List your matching predictions, newest first; an admin sees all."""
        offset = (body.page - 1) * body.page_size
        jobs, total = await service.queue.search(
            _filter(body), caller(request), limit=body.page_size, offset=offset
        )
        base = base_url(request)
        items = [_item(job, base, body.include_inputs) for job in jobs]
        return Envelope(data=History(page=body.page, items=items, total=total))

    @routes.post("/delete")
    async def delete_predictions(request: Request, body: DeleteRequest) -> Envelope[Deleted]:
        """Delete predictions and their files; cancel unfinished ones, skip unknown ones."""
        deleted = 0
        for prediction_id in dict.fromkeys(body.ids):
            deleted += await delete(prediction_id, caller(request))
        return Envelope(data=Deleted(deleted_count=deleted))

    async def delete(prediction_id: str, sender: Caller) -> bool:
        try:
            job = (await service.queue.state(prediction_id, sender)).job
            if job.request.contract != NAME:
                return False
            await service.delete_any(prediction_id)
        except NotFound:
            return False
        return True

    return routes


def _filter(body: HistoryRequest) -> JobFilter:
    statuses = tuple(mine for mine, theirs in STATUSES.items() if theirs == body.status)
    return JobFilter(
        contract=NAME,
        endpoint=body.model,
        statuses=statuses if body.status else None,
        created_after=_unix_seconds(body.created_after),
        created_before=_unix_seconds(body.created_before),
    )


def _unix_seconds(moment: datetime.datetime | None) -> float | None:
    if moment is None:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    return moment.timestamp()


def _item(job: Job, base: str, include_inputs: bool) -> HistoryItem:
    item = HistoryItem.model_validate(listed(job, base).model_dump())
    if include_inputs:
        params = job.request.params
        inputs = {
            "prompt": params.prompt,
            "images": [url or INLINE for url in job.images],
            "size": f"{params.size[0]}*{params.size[1]}" if params.size else None,
            "loras": [{"path": lora.path, "scale": lora.scale} for lora in params.own_loras],
            "seed": params.seed,
            "output_format": job.request.output_format,
            "enable_base64_output": job.request.base64_output,
            "negative_prompt": params.negative_prompt,
            "num_inference_steps": params.num_inference_steps,
            "guidance_scale": params.true_cfg_scale,
        }
        item.inputs = {name: value for name, value in inputs.items() if value is not None}
    return item
