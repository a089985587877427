"""From a finished run to files and an outcome, while the device runs the next job."""

import logging
import time
from collections.abc import Awaitable, Callable
from functools import partial

from pipelines.api.messages import Done, OutputImage
from server.errors import ContentBlocked, StorageFull
from server.job import Job, JobStatus, Outcome, Output, Submission
from server.media.outputs import OutputStore
from server.readiness import Readiness
from server.store.retry import until_stored
from server.workers.executor import Executor

logger = logging.getLogger(__name__)


class Delivery:
    """Writes the outputs of finished runs."""

    def __init__(
        self,
        executor: Executor,
        outputs: OutputStore,
        *,
        embed_prompt: bool,
        blocks_unsafe: bool,
        sleep: Callable[[float], Awaitable[None]],
        readiness: Readiness,
    ) -> None:
        self._executor = executor
        self._outputs = outputs
        self._embed_prompt = embed_prompt
        self._blocks_unsafe = blocks_unsafe
        self._sleep = sleep
        self._readiness = readiness

    async def deliver(self, job: Job, images: list[OutputImage], done: Done) -> Outcome:
        """Write the outputs and return the outcome, retrying while the disk takes no file.

        Raises ContentBlocked.
        """
        if self._blocks_unsafe and any(image.is_unsafe for image in images):
            raise ContentBlocked
        started = time.perf_counter()
        outputs = await self._write_outputs(job, images, done)
        return Outcome(
            JobStatus.SUCCEEDED,
            outputs=outputs,
            seconds=_seconds(job, done, deliver_s=time.perf_counter() - started),
            num_inference_steps=done.sampling.steps,
            true_cfg_scale=done.sampling.true_cfg_scale,
            used_prompt=done.prompt,
            is_prompt_extended=done.is_extended,
            sampling=done.sampling,
            warnings=done.warnings,
        )

    async def _write_outputs(
        self, job: Job, images: list[OutputImage], done: Done
    ) -> tuple[Output, ...]:
        request = job.request
        facts: dict[str, object] = {
            "model": self._executor.model.model.name if self._executor.model else "unknown",
            "steps": done.sampling.steps,
            "true_cfg_scale": done.sampling.true_cfg_scale,
            "sampling": str(done.sampling),
        }
        if self._embed_prompt:
            facts["prompt"] = request.params.prompt
        return tuple([await self._write_patiently(request, image, facts) for image in images])

    async def _write_patiently(
        self, request: Submission, image: OutputImage, facts: dict[str, object]
    ) -> Output:
        """Write an image as soon as the disk takes it."""
        source = f"output of {image.job_id}"

        def note(exc: StorageFull, delay_s: float) -> None:
            self._readiness.block(source, str(exc))
            logger.error("job %s: %s Next attempt in %g s.", image.job_id, exc, delay_s)

        write = partial(
            self._outputs.write,
            image.rgb,
            (image.width, image.height),
            request.output_format,
            seed=image.seed,
            facts=facts,
            watermark=request.watermark,
            quality=request.quality,
            is_unsafe=image.is_unsafe,
        )
        try:
            return await until_stored(write, self._sleep, note)
        finally:
            self._readiness.clear(source)


def _seconds(job: Job, done: Done, *, deliver_s: float) -> dict[str, float]:
    """The duration of each stage of a job, from submit to files."""
    prepared_at = job.prepared_at or job.created_at
    return {
        "prepare": prepared_at - job.created_at,
        "queued": max(0.0, (job.started_at or prepared_at) - prepared_at),
        **{str(stage): value for stage, value in done.seconds.items()},
        "deliver": deliver_s,
    }
