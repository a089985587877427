"""Responses to clients while the end of a job cannot be written."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx2
import pytest

from pipelines.files.catalog import Catalog
from server.app import create_app
from server.job import Outcome
from server.settings import Settings
from server.store.retry import MAX_RETRY_S
from server.wiring import Components, build_components
from tests.fake_time import FakeTime
from tests.make_job import make_job
from tests.server.jobs.unwritable import unwritable

WEIGHTS = Path(__file__).parents[3] / "weights"
PATIENCE_S = 60.0


@pytest.fixture
async def components(tmp_path: Path) -> AsyncIterator[Components]:
    """A server whose queue is open; nothing else is started."""
    settings = Settings(data_dir=tmp_path, weights_dir=WEIGHTS, model="demo", page=False)
    catalog = Catalog(settings.weights_dir)
    components = build_components(settings, catalog.resolve_model("demo"), catalog)
    await components.services.queue.open()
    yield components
    components.inputs.close()
    components.services.outputs.close()
    components.database.close()


async def test_health_is_failed_and_a_delete_answers_507_until_the_end_is_written(
    components: Components, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue, time = components.services.queue, FakeTime()
    monkeypatch.setattr(components.database, "_sleep", time.sleep)
    await queue.submit(make_job())
    job = await queue.claim()
    transport = httpx2.ASGITransport(create_app(components))
    async with (
        asyncio.timeout(PATIENCE_S),
        httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client,
    ):
        async with unwritable(components.database, tmp_path / "jobs.sqlite3"):
            ending = asyncio.create_task(queue.finish(job, Outcome.failed("timeout", "Too long.")))
            await time.pass_by(0)
            broken = (await client.get("/health")).json()
            refused = await client.delete(f"/v1/edits/{job.id}")
        await time.pass_by(MAX_RETRY_S)
        await ending
        healthy = (await client.get("/health")).json()

    sentence = "The server's database cannot be written: database is locked. Try again later."
    assert (broken["status"], broken["error"]) == ("failed", sentence)
    assert refused.status_code == 507
    assert refused.json()["error"] == {"code": "storage_full", "message": sentence, "field": None}
    assert (healthy["status"], healthy["error"]) == ("starting", None)
    assert (await queue.get(job.id)).error is not None
