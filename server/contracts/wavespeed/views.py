"""Jobs as WaveSpeed's predictions."""

import base64
import datetime

from server.contracts.wavespeed.codes import STATUSES, business_code, error_message
from server.contracts.wavespeed.schemas import Prediction, Timings, Urls
from server.job import Job
from server.jobs.service import EditService, output_url


async def prediction(service: EditService, job: Job, base: str) -> Prediction:
    """Return the job with outputs as URLs or base64, as it requested.

    `base` is the server's URL as the client knows it.
    """
    if not job.request.base64_output:
        return listed(job, base)
    outputs = [await service.outputs.read(output) for output in job.outputs]
    encoded = [base64.b64encode(output).decode("ascii") for output in outputs]
    return listed(job, base).model_copy(update={"outputs": encoded})


def listed(job: Job, base: str) -> Prediction:
    """Return the job with outputs as URLs, even if it requested base64."""
    seconds = job.outcome.seconds if job.outcome else {}
    inference = sum(seconds.get(stage, 0.0) for stage in ("encode", "denoise", "decode"))
    total = (job.finished_at or job.created_at) - job.created_at
    return Prediction(
        id=job.id,
        model=job.request.endpoint,
        outputs=[output_url(base, output) for output in job.outputs],
        urls=Urls(get=f"{base}/api/v3/predictions/{job.id}/result"),
        has_nsfw_contents=[output.is_unsafe for output in job.outputs],
        status=STATUSES[job.status],
        created_at=iso(job.created_at),
        error=error_message(job),
        executionTime=round(total * 1000),
        timings=Timings(inference=round(inference * 1000)),
        code=business_code(job),
    )


def iso(moment: float) -> str:
    """Format Unix seconds as the provider does."""
    time = datetime.datetime.fromtimestamp(moment, datetime.UTC)
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z")
