"""The inputs of unfinished jobs: images on disk and LoRA files."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from pipelines.api.errors import EngineError
from pipelines.api.messages import LoraFile
from server.errors import InvalidLora
from server.job import Job, Submission
from server.loras.library import LoraLibrary
from server.media.inputs import InputStore
from server.net.fair_slots import FairSlots, host_of

# At most 20 MiB each is in memory.
IMAGE_DOWNLOADS = 16
IMAGE_DOWNLOADS_PER_OWNER = 12
# Of one owner.
IMAGE_DOWNLOADS_PER_HOST = 8


@dataclass(frozen=True, slots=True)
class RunInputs:
    """The inputs of one run: encoded RGB images and LoRA files."""

    references: tuple[bytes, ...] = field(repr=False)
    loras: tuple[LoraFile, ...]


class JobInputs:
    """Stores, fetches and loads what jobs need besides their parameters.

    LoRA references are resolved once per job, at submit or in preparation, and kept in memory:
    after a restart of the server they are resolved again before the run.
    """

    def __init__(self, images: InputStore, loras: LoraLibrary, *, keep_images: bool) -> None:
        """`keep_images` keeps the images of jobs that have run."""
        self._images = images
        self._library = loras
        self._keep_images = keep_images
        self._loras: dict[str, tuple[LoraFile, ...]] = {}
        self._slots = FairSlots(
            IMAGE_DOWNLOADS,
            per_owner=IMAGE_DOWNLOADS_PER_OWNER,
            per_host=IMAGE_DOWNLOADS_PER_HOST,
        )

    async def store(
        self, job_id: str, request: Submission, images: Sequence[str | bytes]
    ) -> tuple[tuple[str | None, ...], bool]:
        """Validate the LoRAs and store the images that the request carries.

        Returns the URLs of the images, None for the stored ones, and whether the job is prepared.
        Raises InvalidLora, InvalidImage, PayloadTooLarge, FetchFailed (offline); then nothing is
        left on disk.
        """
        loras = await self._find_loras(request)
        urls = await self._images.store_inline(job_id, images, request.max_image_bytes)
        if loras is not None:
            self._loras[job_id] = loras
        return urls, loras is not None and all(url is None for url in urls)

    async def fetch(self, job: Job) -> None:
        """Fetch images and LoRAs side by side; the first failure cancels the others.

        Raises FetchFailed, InvalidImage, PayloadTooLarge, LoraNotFound, LoraInvalid.
        """
        request = job.request
        try:
            async with asyncio.TaskGroup() as group:
                for index, url in enumerate(job.images):
                    if url is not None:
                        group.create_task(self._fetch_image(job, index, url))
                for index, lora in enumerate(request.params.loras):
                    field_name = f"loras/{index}/path"
                    group.create_task(self._library.fetch(lora.path, field_name, request.owner))
        except ExceptionGroup as failures:
            raise failures.exceptions[0] from failures
        await self.loras(job)

    async def load(self, job: Job) -> RunInputs:
        """Read the job's images and resolve its LoRAs. Raises NotFound, LoraNotFound."""
        return RunInputs(await self._images.read(job.id, len(job.images)), await self.loras(job))

    async def loras(self, job: Job) -> tuple[LoraFile, ...]:
        """The job's LoRA files, resolved again if one has changed. Raises LoraNotFound."""
        files = self._loras.get(job.id)
        if files is None or not await self._library.are_current(files):
            files = tuple([await self._library.resolve(lora) for lora in job.request.params.loras])
            self._loras[job.id] = files
        return files

    async def release(self, job_id: str) -> None:
        """Remove the inputs of a job that has run, unless the operator keeps its images."""
        self._loras.pop(job_id, None)
        if not self._keep_images:
            await self._images.delete(job_id)

    async def delete(self, job_id: str) -> None:
        """Remove all inputs of the job."""
        self._loras.pop(job_id, None)
        await self._images.delete(job_id)

    def job_ids(self) -> list[str]:
        """The jobs that have images on disk."""
        return self._images.job_ids()

    async def _fetch_image(self, job: Job, index: int, url: str) -> None:
        async with self._slots.slot(job.request.owner, host_of(url)):
            await self._images.fetch(job.id, index, url, job.request.max_image_bytes)

    async def _find_loras(self, request: Submission) -> tuple[LoraFile, ...] | None:
        """The LoRA files, or None when one has yet to be fetched or hashed."""
        found = []
        for index, lora in enumerate(request.params.loras):
            field_name = f"loras/{index}/path"
            try:
                found.append(await self._library.find(lora, field_name))
            except EngineError as exc:
                raise InvalidLora(str(exc), field=field_name) from exc
        files = tuple(file for file in found if file is not None)
        return files if len(files) == len(found) else None
