"""The metrics that workers report: the memory of their devices and their LoRA caches."""

from pipelines.api.messages import WorkerUsage
from server.metrics import Metrics


class UsageMetrics:
    """Turns the counts of each worker, which end with it, into counters of the server."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics
        self._last: dict[int, WorkerUsage] = {}

    def note(self, pid: int, usage: WorkerUsage) -> None:
        """Take over what the worker with this process ID has reported."""
        last = self._last.get(pid)
        self._last[pid] = usage
        metrics, device = self._metrics, usage.device
        metrics.lora_cache_hits.inc(usage.lora_hits - (last.lora_hits if last else 0))
        metrics.lora_cache_misses.inc(usage.lora_misses - (last.lora_misses if last else 0))
        metrics.lora_cache_bytes.labels(device, "host").set(usage.lora_host_bytes)
        metrics.lora_cache_bytes.labels(device, "device").set(usage.lora_device_bytes)
        metrics.device_memory_bytes.labels(device, "used").set(usage.memory_used_bytes)
        metrics.device_memory_bytes.labels(device, "peak").set(usage.memory_peak_bytes)
        metrics.device_memory_bytes.labels(device, "total").set(usage.memory_total_bytes)

    def forget(self, pid: int) -> None:
        """Drop the counts of a worker that has exited; the next one starts at 0."""
        self._last.pop(pid, None)
