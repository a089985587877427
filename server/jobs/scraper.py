"""A scrape of the metrics, with the gauges that no event changes."""

import asyncio
import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path

from server.errors import StorageFull
from server.metrics import Metrics
from server.store import jobs
from server.store.database import Database
from server.version import VERSION


class Scraper:
    """Reads some rows of an index and asks for the free disk, once per scrape."""

    def __init__(
        self, metrics: Metrics, database: Database, data_dir: Path, *, clock: Callable[[], float]
    ) -> None:
        self._metrics = metrics
        self._database = database
        self._data_dir = data_dir
        self._clock = clock

    async def render(self, model_name: str) -> bytes:
        """Return all metrics in Prometheus' text format.

        While the disk or the database cannot be read, its gauges keep their last values: the
        others are wanted then most of all.
        """
        metrics = self._metrics
        with contextlib.suppress(StorageFull, OSError):
            disk = await asyncio.to_thread(shutil.disk_usage, self._data_dir)
            metrics.disk_free_bytes.set(disk.free)
            waiting, running, oldest = await self._database.read(jobs.figures)
            metrics.queue_depth.set(waiting)
            metrics.running_jobs.set(running)
            metrics.queue_oldest_seconds.set(max(0.0, self._clock() - oldest) if oldest else 0.0)
        metrics.info.clear()
        metrics.info.labels(VERSION, model_name).set(1)
        return metrics.render()
