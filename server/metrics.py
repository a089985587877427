"""All metrics of `/metrics`, in one place; `docs/metrics.md` lists them.

A new metric is an attribute here, a row there, and the line that observes it. No label takes its
values from clients: each combination is a series that is kept as long as the server.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

CONTENT_TYPE = CONTENT_TYPE_LATEST
JOB_OUTCOMES = ("succeeded", "failed", "canceled")
KILL_REASONS = ("crash", "memory", "time")
WEBHOOK_OUTCOMES = ("delivered", "failed", "given_up")
# From a demo model's edit to a long one with offloaded weights.
STAGE_BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800)
STEP_BUCKETS_S = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)


class Metrics:
    """The metrics of one server, in a registry of their own.

    Counters and histograms change as things happen. Gauges are read at each scrape.
    """

    def __init__(self) -> None:
        self._registry = registry = CollectorRegistry()
        self.info = Gauge(
            "qwen_edit_info", "Version and model; always 1", ["version", "model"], registry=registry
        )
        self.jobs = Counter(
            "qwen_edit_jobs_total", "Ended jobs", ["contract", "outcome"], registry=registry
        )
        self.job_failures = Counter(
            "qwen_edit_job_failures_total", "Failed jobs by error code", ["code"], registry=registry
        )
        self.queue_depth = Gauge("qwen_edit_queue_depth", "Waiting jobs", registry=registry)
        self.queue_oldest_seconds = Gauge(
            "qwen_edit_queue_oldest_seconds",
            "Age of the oldest waiting job; 0 if none waits",
            registry=registry,
        )
        self.running_jobs = Gauge("qwen_edit_running_jobs", "Running jobs", registry=registry)
        self.stage_seconds = Histogram(
            "qwen_edit_stage_seconds",
            "Duration of each stage of a succeeded job",
            ["stage"],
            buckets=STAGE_BUCKETS_S,
            registry=registry,
        )
        self.step_seconds = Histogram(
            "qwen_edit_step_seconds",
            "Duration of a denoising step",
            buckets=STEP_BUCKETS_S,
            registry=registry,
        )
        self._add_workers(registry)
        self._add_input_and_output(registry)

    def _add_workers(self, registry: CollectorRegistry) -> None:
        self.worker_restarts = Counter(
            "qwen_edit_worker_restarts_total", "Workers replaced after they died", registry=registry
        )
        self.load_failures = Counter(
            "qwen_edit_worker_load_failures_total",
            "Workers that did not load the model",
            registry=registry,
        )
        self.device_memory_bytes = Gauge(
            "qwen_edit_device_memory_bytes",
            "Memory of a worker's device after its last job",
            ["device", "kind"],
            registry=registry,
        )
        self.lora_cache_hits = Counter(
            "qwen_edit_lora_cache_hits_total", "LoRAs that were in memory", registry=registry
        )
        self.lora_cache_misses = Counter(
            "qwen_edit_lora_cache_misses_total", "LoRAs read from disk", registry=registry
        )
        self.lora_cache_bytes = Gauge(
            "qwen_edit_lora_cache_bytes",
            "LoRAs that a worker keeps in memory",
            ["device", "memory"],
            registry=registry,
        )

    def _add_input_and_output(self, registry: CollectorRegistry) -> None:
        self.decode_kills = Counter(
            "qwen_edit_decode_kills_total",
            "Decoders ended by an image",
            ["reason"],
            registry=registry,
        )
        self.webhook_attempts = Counter(
            "qwen_edit_webhook_attempts_total",
            "Attempts to deliver a webhook",
            ["contract", "outcome"],
            registry=registry,
        )
        self.storage_failures = Counter(
            "qwen_edit_storage_failures_total",
            "Writes to the database that the disk refused",
            registry=registry,
        )
        self.disk_free_bytes = Gauge(
            "qwen_edit_disk_free_bytes", "Free disk of the data folder", registry=registry
        )

    def start_at_zero(self, contracts: Iterable[str]) -> None:
        """Show the series whose labels are known: a rate misses a series' first value."""
        for contract in contracts:
            for outcome in JOB_OUTCOMES:
                self.jobs.labels(contract, outcome)
            for outcome in WEBHOOK_OUTCOMES:
                self.webhook_attempts.labels(contract, outcome)
        for reason in KILL_REASONS:
            self.decode_kills.labels(reason)

    def render(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(_WithoutCreationTimes(self._registry))


class _WithoutCreationTimes(CollectorRegistry):
    """A registry without the `_created` series, which double the number of series."""

    def __init__(self, registry: Collector) -> None:
        super().__init__()
        self._all = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._all.collect():
            metric.samples = [each for each in metric.samples if not each.name.endswith("_created")]
            yield metric
