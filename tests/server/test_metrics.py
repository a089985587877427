"""The metrics as a whole: their names, and that a server's are its own."""

from pathlib import Path
from typing import cast

from prometheus_client.metrics import MetricWrapperBase

from server.errors import StorageFull
from server.jobs.scraper import Scraper
from server.metrics import Metrics
from server.store.database import Database

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"


def test_documented_table_is_what_is_exposed() -> None:
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in PAGE.read_text().splitlines()
        if line.startswith("| `")
    ]
    documented = {name.strip("`"): (kind, _labels(cell)) for name, kind, cell, _ in rows}
    exposed = {
        _exposed_name(metric): (metric._type, metric._labelnames)
        for metric in vars(Metrics()).values()
        if isinstance(metric, MetricWrapperBase)
    }

    assert documented == exposed
    assert len(exposed) == len(rows) > 15


def _labels(cell: str) -> tuple[str, ...]:
    return tuple(label.strip().strip("`") for label in cell.split(",") if label.strip())


def _exposed_name(metric: MetricWrapperBase) -> str:
    return f"{metric._name}_total" if metric._type == "counter" else metric._name


def test_metrics_of_two_servers_are_apart() -> None:
    one, two = Metrics(), Metrics()
    one.queue_depth.set(7)

    assert b"qwen_edit_queue_depth 7.0" in one.render()
    assert b"qwen_edit_queue_depth 0.0" in two.render()


def test_series_with_known_labels_start_at_zero() -> None:
    metrics = Metrics()
    metrics.start_at_zero(["native"])
    shown = metrics.render()

    assert b'qwen_edit_jobs_total{contract="native",outcome="failed"} 0.0' in shown
    assert b'qwen_edit_webhook_attempts_total{contract="native",outcome="given_up"} 0.0' in shown
    assert b'qwen_edit_decode_kills_total{reason="memory"} 0.0' in shown


def test_render_leaves_out_the_times_of_creation() -> None:
    metrics = Metrics()
    metrics.start_at_zero(["native"])
    metrics.stage_seconds.labels("encode").observe(1)

    assert b"_created" not in metrics.render()
    assert b'qwen_edit_stage_seconds_count{stage="encode"} 1.0' in metrics.render()


async def test_scrape_of_a_broken_disk_keeps_the_last_values(tmp_path: Path) -> None:
    class BrokenDatabase:
        async def read(self, _: object) -> None:
            raise StorageFull

    metrics = Metrics()
    metrics.queue_depth.set(7)
    database = cast(Database, BrokenDatabase())

    for folder in (tmp_path, tmp_path / "gone"):
        scraper = Scraper(metrics, database, folder, clock=lambda: 0.0)
        assert b"qwen_edit_queue_depth 7.0" in await scraper.render("demo")
