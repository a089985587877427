"""`/metrics` of live servers: what happens is counted."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pipelines.files.architecture import read_linears
from tests.fake_worker import NON_FINITE
from tests.live_server import LONG, LiveServer, live_server, until
from tests.lora_files import random_pairs, write_lora
from tests.webhook_receiver import webhook_receiver

Sample = tuple[str, frozenset[tuple[str, str]]]


ALICES_KEY = "a-key-of-16-letters"
ADMINS_KEY = "b-key-of-16-letters"
LAYER = "transformer_blocks.0.attn.to_q"


@pytest.fixture(scope="module")
def own_server(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveServer]:
    """A server with keys, whose worker may be killed."""
    keys = f"alice={ALICES_KEY},admin:root={ADMINS_KEY}"
    with live_server(tiny_model, tmp_path_factory.mktemp("own"), API_KEYS=keys) as running:
        running.http.headers["X-API-Key"] = ADMINS_KEY
        yield running


def scrape(server: LiveServer) -> dict[Sample, float]:
    """Return each value by the name and the labels of its series."""
    answer = server.http.get(f"{server.url}/metrics")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain; version=")
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def series(name: str, **labels: str) -> Sample:
    return f"qwen_edit_{name}", frozenset(labels.items())


def edit(server: LiveServer, body: dict[str, Any]) -> dict[str, Any]:
    answer = server.http.post(f"{server.url}/v1/edits?wait=60", json=body)
    found: dict[str, Any] = answer.json()
    assert found["status"] == "succeeded", found
    return found


def test_edit_is_counted_with_its_stages_and_steps(
    server: LiveServer, body: dict[str, Any]
) -> None:
    before = scrape(server)
    edit(server, body | {"num_inference_steps": 4})
    after = scrape(server)

    def grown(name: str, **labels: str) -> float:
        key = series(name, **labels)
        return after[key] - before.get(key, 0.0)

    assert grown("jobs_total", contract="native", outcome="succeeded") == 1
    assert grown("jobs_total", contract="native", outcome="failed") == 0
    for stage in ("prepare", "queued", "encode", "denoise", "decode", "deliver"):
        assert grown("stage_seconds_count", stage=stage) == 1
    assert grown("stage_seconds_sum", stage="denoise") > 0
    assert grown("step_seconds_count") == 4


def test_gauges_say_what_is_loaded_and_left(server: LiveServer) -> None:
    found = scrape(server)

    assert found[series("queue_depth")] == found[series("queue_oldest_seconds")] == 0
    assert found[series("running_jobs")] == 0
    assert found[series("disk_free_bytes")] > 0
    assert found[series("device_memory_bytes", device="cpu", kind="used")] == 5
    assert found[series("device_memory_bytes", device="cpu", kind="total")] == 10
    (info,) = [dict(labels) for name, labels in found if name == "qwen_edit_info"]
    assert info["model"] == "tiny"


def test_waiting_jobs_show_in_depth_and_age(server: LiveServer, body: dict[str, Any]) -> None:
    for _ in range(2):
        server.http.post(f"{server.url}/v1/edits", json=body | LONG)
    until(lambda: server.health()["status"] == "busy")
    first, second = scrape(server), scrape(server)
    server.forget_edits()

    assert (first[series("running_jobs")], first[series("queue_depth")]) == (1, 1)
    assert first[series("queue_oldest_seconds")] < second[series("queue_oldest_seconds")]


def test_failed_and_canceled_jobs_are_counted_by_contract_and_code(
    server: LiveServer, body: dict[str, Any]
) -> None:
    failed = series("jobs_total", contract="native", outcome="failed")
    canceled = series("jobs_total", contract="native", outcome="canceled")
    before = scrape(server)
    server.http.post(f"{server.url}/v1/edits?wait=60", json=body | {"prompt": NON_FINITE})
    waiting = server.http.post(f"{server.url}/v1/edits", json=body | LONG).json()["id"]
    server.http.post(f"{server.url}/v1/edits/{waiting}/cancel")
    until(lambda: scrape(server)[canceled] == before[canceled] + 1)
    after = scrape(server)

    assert after[failed] == before[failed] + 1
    code = series("job_failures_total", code="non_finite_output")
    assert after[code] == before.get(code, 0.0) + 1


def test_lora_in_memory_is_a_hit(
    own_server: LiveServer, tiny_model: Path, body: dict[str, Any]
) -> None:
    pairs = random_pairs(read_linears(tiny_model), [LAYER])
    write_lora(own_server.weights_dir / "loras" / "style.safetensors", pairs)
    for _ in range(3):
        edit(own_server, body | {"loras": [{"path": "style"}]})
    until(lambda: scrape(own_server)[series("lora_cache_hits_total")] == 2)
    found = scrape(own_server)

    assert found[series("lora_cache_misses_total")] == 1
    assert found[series("lora_cache_bytes", device="cpu", memory="host")] == 1


def test_replaced_worker_is_counted(own_server: LiveServer) -> None:
    restarts = series("worker_restarts_total")
    assert scrape(own_server)[restarts] == 0
    (pid,) = own_server.worker_pids()
    os.kill(pid, signal.SIGKILL)

    until(lambda: scrape(own_server)[restarts] == 1)
    until(lambda: own_server.health()["status"] == "ready")


def test_attempts_at_a_webhook_are_counted_by_outcome(
    fetching_server: LiveServer, body: dict[str, Any]
) -> None:
    def attempts(outcome: str) -> float:
        key = series("webhook_attempts_total", contract="wavespeed", outcome=outcome)
        return scrape(fetching_server)[key]

    before = attempts("failed"), attempts("delivered")
    with webhook_receiver() as receiver:
        receiver.statuses = [503]
        answer = fetching_server.http.post(
            f"{fetching_server.url}/api/v3/wavespeed-ai/qwen-image/edit-plus-lora",
            json=body,
            params={"webhook": receiver.url},
        )
        assert answer.status_code == 200, answer.text
        until(lambda: attempts("delivered") == before[1] + 1)

    assert attempts("failed") == before[0] + 1


def test_metrics_require_an_admins_key_where_keys_are_set(own_server: LiveServer) -> None:
    url = f"{own_server.url}/metrics"
    answers = [httpx2.get(url, headers={"X-API-Key": key}) for key in ("", ALICES_KEY, ADMINS_KEY)]

    assert [answer.status_code for answer in answers] == [401, 403, 200]
    assert ["qwen_edit_" in answer.text for answer in answers] == [False, False, True]
