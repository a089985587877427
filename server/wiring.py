"""The parts that live as long as the server: settings to parts, each handed what it needs."""

import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.files.catalog import Catalog, ModelChoice
from server.contracts import provider_queue, wavespeed
from server.job import Job
from server.jobs.dispatcher import Dispatcher
from server.jobs.job_queue import JobQueue
from server.jobs.preparer import Preparer
from server.jobs.service import EditService
from server.jobs.webhook_sender import WebhookSender, read_or_create_secret
from server.loras.library import LoraLibrary
from server.loras.store import LoraStore
from server.media.inputs import InputStore
from server.media.outputs import OutputStore
from server.media.uploads import UploadStore
from server.net.fetch import Fetcher
from server.playground import PageContext, Playground
from server.settings import SafetyMode, Settings
from server.store.database import Database
from server.web.auth import KeyCheck
from server.workers.executor import Executor
from server.workers.local_pool import LocalPool
from server.workers.local_process import WORKER_COMMAND, WorkerOptions


@dataclass(frozen=True, slots=True)
class Parts:
    """What lives as long as the server."""

    settings: Settings
    choice: ModelChoice
    catalog: Catalog
    database: Database
    fetcher: Fetcher
    inputs: InputStore
    outputs: OutputStore
    uploads: UploadStore
    library: LoraLibrary
    queue: JobQueue
    executor: Executor
    preparer: Preparer
    dispatcher: Dispatcher
    service: EditService
    webhooks: WebhookSender
    webhook_secret: str
    keys: KeyCheck
    playground: Playground | None

    def end_streams(self) -> None:
        """End what would hold the server up for as long as a client listens."""
        self.queue.close()
        if self.playground is not None:
            self.playground.close()


def build_parts(
    settings: Settings,
    choice: ModelChoice,
    catalog: Catalog,
    *,
    worker_command: Sequence[str] = WORKER_COMMAND,
) -> Parts:
    """Make the parts and hand each what it needs; nothing is started."""
    data = settings.data_dir
    database = Database(data / "jobs.sqlite3")
    queue = JobQueue(database, max_waiting=settings.max_waiting_jobs, clock=time.time)
    fetcher = Fetcher(settings.allow_networks, offline=settings.offline)
    outputs = OutputStore(data / "outputs")
    uploads = UploadStore(
        data / "uploads", database, keep_s=settings.keep_uploads_h * 3600, clock=time.time
    )
    inputs = InputStore(
        data / "inputs",
        fetcher,
        own_file=lambda url: outputs.path_of_url(url) or uploads.path_of_url(url),
        fetch_timeout_s=settings.fetch_timeout_s,
    )
    executor = LocalPool(_worker_options(settings, choice, worker_command))
    library = _build_library(settings, catalog, fetcher, executor, queue)
    preparer = Preparer(queue, inputs, library)
    dispatcher = Dispatcher(
        queue,
        executor,
        inputs,
        library,
        outputs,
        job_timeout_s=settings.job_timeout_s,
        keep_inputs=settings.keep_inputs,
        embed_prompt=settings.embed_prompt,
        blocks_unsafe=settings.safety_mode is SafetyMode.BLOCK,
    )
    service = EditService(
        queue, dispatcher, preparer, executor, inputs, library, outputs,
        check_address=fetcher.check_address,
        clock=time.time,
        log_prompts=settings.log_prompts,
    )  # fmt: skip
    secret = settings.webhook_secret or read_or_create_secret(data / "webhook_secret")
    webhooks = _build_webhooks(settings, database, fetcher, queue, service, secret)
    keys = KeyCheck(settings.all_api_keys())
    page = PageContext(settings, choice, catalog, service, executor, outputs, uploads, fetcher)
    playground = Playground(page, keys) if settings.page else None
    return Parts(
        settings, choice, catalog, database, fetcher, inputs, outputs, uploads, library, queue,
        executor, preparer, dispatcher, service, webhooks, secret, keys, playground,
    )  # fmt: skip


def _build_webhooks(
    settings: Settings,
    database: Database,
    fetcher: Fetcher,
    queue: JobQueue,
    service: EditService,
    secret: str,
) -> WebhookSender:
    async def find_job(job_id: str) -> Job:
        return (await service.state(job_id)).job

    return WebhookSender(
        database,
        fetcher,
        {
            wavespeed.NAME: wavespeed.webhook_format(
                service, public_url=settings.public_url, secret=secret
            ),
            provider_queue.NAME: provider_queue.webhook_format(
                service, public_url=settings.public_url
            ),
        },
        added=queue.webhook_added,
        find_job=find_job,
        clock=time.time,
    )


def _worker_options(
    settings: Settings, choice: ModelChoice, command: Sequence[str]
) -> list[WorkerOptions]:
    return [
        WorkerOptions(
            model=choice.path,
            device=device,
            dtype=settings.dtype,
            offload=settings.offload,
            safety_checker=settings.safety_checker,
            command=command,
        )
        for device in settings.devices
    ]


def _build_library(
    settings: Settings,
    catalog: Catalog,
    fetcher: Fetcher,
    executor: Executor,
    queue: JobQueue,
) -> LoraLibrary:
    max_store_bytes = round(settings.lora_store_gb * 2**30)
    return LoraLibrary(
        catalog,
        LoraStore(settings.data_dir / "loras", max_bytes=max_store_bytes),
        fetcher,
        max_bytes=settings.max_lora_mb * 2**20,
        timeout_s=settings.lora_timeout_s,
        tokens=settings.download_tokens,
        linears=lambda: executor.model.linears if executor.model else None,
        in_use=queue.lora_references,
    )
