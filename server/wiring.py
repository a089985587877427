"""Settings to components: builds what lives as long as the server, and starts nothing."""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass

from pipelines.api.families import Linears
from pipelines.files.architecture import read_linears
from pipelines.files.catalog import Catalog, ModelChoice
from server.contracts import CONTRACTS
from server.job import Job
from server.jobs.dispatcher import Dispatcher
from server.jobs.job_inputs import JobInputs
from server.jobs.job_queue import JobQueue
from server.jobs.preparer import Preparer
from server.jobs.queue_limits import QueueLimits
from server.jobs.scraper import Scraper
from server.jobs.service import STOPPING, EditService
from server.jobs.submit_rate import SubmitRate
from server.jobs.webhook_secrets import WebhookSecrets, read_or_create_secret
from server.jobs.webhook_sender import WebhookSender
from server.loras.library import LoraLibrary
from server.loras.presets import Presets
from server.loras.reports import LoraReports
from server.loras.store import LoraStore
from server.media.decoder_pool import DecoderPool
from server.media.inputs import InputStore
from server.media.outputs import OutputStore
from server.media.uploads import UploadStore
from server.metrics import Metrics
from server.net.fetch import Fetcher
from server.playground import PageContext, Playground
from server.readiness import Readiness
from server.settings import Settings
from server.store.database import Database
from server.store.opening import DATABASE_FILE
from server.store.storage_watch import StorageWatch
from server.web.auth import KeyCheck
from server.web.contract import Services
from server.workers.executor import Executor
from server.workers.local_pool import LocalPool
from server.workers.local_process import WORKER_COMMAND, WorkerOptions

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Components:
    """Everything that lives as long as the server; the contracts see its `services` alone."""

    services: Services
    database: Database
    fetcher: Fetcher
    decoders: DecoderPool
    inputs: InputStore
    executor: Executor
    preparer: Preparer
    dispatcher: Dispatcher
    webhooks: WebhookSender
    keys: KeyCheck
    playground: Playground | None
    storage_watch: StorageWatch

    async def drain(self) -> None:
        """Take and start no more jobs, and give the running ones time to end."""
        self.services.readiness.block("drain", STOPPING)
        await self.dispatcher.drain(self.services.settings.drain_s)

    def end_streams(self) -> None:
        """End the streams and decodes that a stop would otherwise wait for."""
        self.services.queue.close()
        self.decoders.close()
        if self.playground is not None:
            self.playground.close()


def choose_model(settings: Settings) -> tuple[Catalog, ModelChoice]:
    """Return the model to serve, and log it prominently. Raises ModelNotFound."""
    catalog = Catalog(settings.weights_dir)
    choice = catalog.resolve_model(settings.model)
    if choice.is_demo:
        logger.warning("MODEL: the demo model (%s). %s", choice.why, choice.warning)
    else:
        logger.info("MODEL: %s, %s", choice.path, choice.why)
    return catalog.with_loras_of(choice), choice


def build_components(
    settings: Settings,
    choice: ModelChoice,
    catalog: Catalog,
    *,
    worker_command: Sequence[str] = WORKER_COMMAND,
) -> Components:
    """Build every component; nothing is started."""
    data = settings.data_dir
    metrics, readiness = Metrics(), Readiness()
    metrics.start_at_zero(each.name for each in CONTRACTS)
    database = Database(data / DATABASE_FILE, metrics=metrics)
    queue = _build_queue(settings, database, metrics)
    fetcher = Fetcher(settings.allow_networks, offline=settings.offline)
    outputs = OutputStore(data / "outputs")
    uploads = _build_uploads(settings, database)
    decoders = DecoderPool(metrics=metrics)
    inputs = _build_inputs(settings, fetcher, decoders, outputs, uploads)
    executor = LocalPool(_worker_options(settings, choice, worker_command), metrics=metrics)
    library = _build_library(settings, catalog, fetcher, executor, queue)
    job_inputs = JobInputs(inputs, library, keep_images=settings.keep_inputs)
    preparer = Preparer(queue, job_inputs, readiness=readiness)
    dispatcher = _build_dispatcher(
        settings, queue, executor, job_inputs, outputs, metrics, readiness
    )
    presets = Presets(catalog, lambda: _linears(executor))
    edits = EditService(
        queue, dispatcher, preparer, executor, job_inputs, outputs,
        check_address=fetcher.check_address,
        submit_rate=SubmitRate(settings.max_submits_per_minute_per_key, time.monotonic),
        clock=time.time, presets=presets, readiness=readiness, log_prompts=settings.log_prompts,
    )  # fmt: skip
    secret = settings.webhook_secret or read_or_create_secret(data / "webhook_secret")
    services = Services(
        settings, choice, catalog, edits, queue, executor, library, outputs, uploads,
        webhook_secrets=WebhookSecrets(secret), clock=time.time,
        scraper=Scraper(metrics, database, data, clock=time.time),
        readiness=readiness, presets=presets, reports=_build_reports(catalog, choice, executor),
    )  # fmt: skip
    webhooks = _build_webhooks(services, database, fetcher, metrics)
    keys = KeyCheck(settings.all_api_keys())
    page = PageContext(
        settings, choice, catalog, edits, executor, outputs, uploads, fetcher, decoders, keys,
        presets, services.reports,
    )  # fmt: skip
    playground = Playground(page) if settings.page else None
    return Components(
        services, database, fetcher, decoders, inputs, executor, preparer, dispatcher, webhooks,
        keys, playground, StorageWatch(data, readiness),
    )  # fmt: skip


def _build_queue(settings: Settings, database: Database, metrics: Metrics) -> JobQueue:
    limits = QueueLimits(settings.max_waiting_jobs, settings.max_waiting_jobs_per_key)
    return JobQueue(database, limits=limits, clock=time.time, metrics=metrics)


def _linears(executor: Executor) -> Linears | None:
    return executor.model.linears if executor.model else None


def _build_reports(catalog: Catalog, choice: ModelChoice, executor: Executor) -> LoraReports:
    return LoraReports(catalog, lambda: _linears(executor) or read_linears(choice.path))


def _build_uploads(settings: Settings, database: Database) -> UploadStore:
    folder, keep_s = settings.data_dir / "uploads", settings.keep_uploads_h * 3600
    return UploadStore(
        folder,
        database,
        keep_s=keep_s,
        max_bytes_per_owner=round(settings.max_upload_gb_per_key * 2**30),
        clock=time.time,
    )


def _build_inputs(
    settings: Settings,
    fetcher: Fetcher,
    decoders: DecoderPool,
    outputs: OutputStore,
    uploads: UploadStore,
) -> InputStore:
    return InputStore(
        settings.data_dir / "inputs",
        fetcher,
        decoders,
        own_file=lambda url: outputs.path_of_url(url) or uploads.path_of_url(url),
        fetch_timeout_s=settings.fetch_timeout_s,
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
            forward=settings.forward,
            prune_last_block=settings.prune_last_block,
            strict_loras=settings.strict_loras,
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
        linears=lambda: _linears(executor),
        in_use=queue.lora_references,
        is_strict=settings.strict_loras,
    )


def _build_dispatcher(
    settings: Settings,
    queue: JobQueue,
    executor: Executor,
    inputs: JobInputs,
    outputs: OutputStore,
    metrics: Metrics,
    readiness: Readiness,
) -> Dispatcher:
    return Dispatcher(
        queue,
        executor,
        inputs,
        outputs,
        job_timeout_s=settings.job_timeout_s,
        step_timeout_s=settings.step_timeout_s,
        embed_prompt=settings.embed_prompt,
        blocks_unsafe=settings.blocks_unsafe,
        metrics=metrics,
        readiness=readiness,
    )


def _build_webhooks(
    services: Services, database: Database, fetcher: Fetcher, metrics: Metrics
) -> WebhookSender:
    async def find_job(job_id: str) -> Job:
        return await services.queue.find(job_id)

    return WebhookSender(
        database,
        fetcher,
        {each.name: each.webhook(services) for each in CONTRACTS if each.webhook is not None},
        added=services.queue.webhook_added,
        find_job=find_job,
        clock=services.clock,
        metrics=metrics,
    )
