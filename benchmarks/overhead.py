"""The server's overhead on an edit, and the slowdown of a running edit by polling clients.

Measured over HTTP between a client process and a server process with the demo model. The pipeline's
own time is `timings.inference` of the response: encode, denoise and decode.
"""

import asyncio
import base64
import io
import time
from dataclasses import dataclass, field
from statistics import median, quantiles
from typing import Any

import httpx2
import PIL.Image

from benchmarks.figure import Figure
from tests.live_server import LiveServer

EDIT_PATH = "/api/v3/wavespeed-ai/qwen-image/edit-plus-lora"
IMAGE_SIDE = 256

OVERHEAD_EDITS = 15
MAX_OVERHEAD_MS = 50.0
MAX_OVERHEAD_SHARE = 0.05

POLLS_PER_S = 50.0
# The rate at which the published SDK polls, as the baseline.
CALM_POLLS_PER_S = 1.0
# Many short pairs, so that both halves of a pair see the same load from other programs.
POLLED_STEPS = 50
POLLED_PAIRS = 14
MAX_SLOWDOWN = 1.05
MAX_POLL_P99_MS = 50.0
TIMEOUT_S = 120.0


@dataclass(slots=True)
class Watched:
    """A finished job: its pipeline time and the latency of each poll while it ran, in ms."""

    inference_ms: float = 0.0
    poll_ms: list[float] = field(default_factory=list)


def http_overhead(server: LiveServer) -> list[Figure]:
    """The wall time of a synchronous edit minus the pipeline's own time."""
    body = _body(enable_sync_mode=True)
    overheads, inferences = [], []
    for _ in range(1 + OVERHEAD_EDITS):
        start = time.perf_counter()
        answer = server.http.post(server.url + EDIT_PATH, json=body)
        wall_ms = (time.perf_counter() - start) * 1000
        inferences.append(_inference_ms(_finished(answer)))
        overheads.append(wall_ms - inferences[-1])
    edit_ms = median(inferences[1:])
    limit = max(MAX_OVERHEAD_MS, MAX_OVERHEAD_SHARE * edit_ms)
    overhead_ms = median(overheads[1:])
    share = f"{overhead_ms / edit_ms:.1%} of the edit itself, {edit_ms:.0f} ms"
    detail = f"median of {OVERHEAD_EDITS}; {share}"
    return [Figure("HTTP overhead of a synchronous edit", overhead_ms, "ms", limit, detail)]


def polling(server: LiveServer) -> list[Figure]:
    """An edit's pipeline time with and without polling, and the latency of the polls."""
    return asyncio.run(_polling(server.url))


async def _polling(url: str) -> list[Figure]:
    pairs: list[tuple[Watched, Watched]] = []
    async with httpx2.AsyncClient(base_url=url, timeout=TIMEOUT_S) as client:
        await _watched_edit(client, POLLS_PER_S)
        for index in range(POLLED_PAIRS):
            # both orders equally often, so that drift during the run cancels out
            rates = sorted((CALM_POLLS_PER_S, POLLS_PER_S), reverse=bool(index % 2))
            edits = {rate: await _watched_edit(client, rate) for rate in rates}
            pairs.append((edits[CALM_POLLS_PER_S], edits[POLLS_PER_S]))
    return _polling_figures(pairs)


def _polling_figures(pairs: list[tuple[Watched, Watched]]) -> list[Figure]:
    ratios = [polled.inference_ms / calm.inference_ms for calm, polled in pairs]
    low, middle, high = quantiles(ratios, n=4)
    polls = [latency for _, polled in pairs for latency in polled.poll_ms]
    return [
        Figure(
            f"Edit under {POLLS_PER_S:g} polls/s ÷ without",
            middle,
            "×",
            MAX_SLOWDOWN,
            f"median of {len(ratios)} pairs; half of them {low:.3f}–{high:.3f}",
        ),
        Figure(
            "Poll latency, 99th percentile",
            quantiles(polls, n=100)[-1],
            "ms",
            MAX_POLL_P99_MS,
            f"{len(polls)} polls; median {median(polls):.1f}, largest {max(polls):.1f} ms",
        ),
    ]


async def _watched_edit(client: httpx2.AsyncClient, polls_per_s: float) -> Watched:
    """Run one edit and poll its result at a fixed rate.

    An open loop: a poll is due at its time even while earlier ones are unanswered, and its latency
    counts from then, so a stall of the server counts for every poll that it delays.
    """
    answer = await client.post(EDIT_PATH, json=_body(num_inference_steps=POLLED_STEPS))
    path = f"/api/v3/predictions/{answer.raise_for_status().json()['data']['id']}/result"
    watched = Watched()

    async def poll(due: float) -> None:
        data = _data(await client.get(path))
        if data["status"] == "completed":
            watched.inference_ms = _inference_ms(data)
        elif data["status"] == "processing":
            watched.poll_ms.append((time.perf_counter() - due) * 1000)

    due = time.perf_counter()
    async with asyncio.TaskGroup() as polls:
        while not watched.inference_ms:
            polls.create_task(poll(due))
            due += 1 / polls_per_s
            await asyncio.sleep(due - time.perf_counter())
    return watched


def _body(**options: object) -> dict[str, object]:
    image = PIL.Image.linear_gradient("L").convert("RGB").resize((IMAGE_SIDE, IMAGE_SIDE))
    file = io.BytesIO()
    image.save(file, "PNG")
    uri = f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"
    return {
        "prompt": "make it blue",
        "images": [uri],
        "seed": 1,
        "output_format": "jpeg",
        **options,
    }


def _inference_ms(data: dict[str, Any]) -> float:
    return float(data["timings"]["inference"])


def _finished(answer: httpx2.Response) -> dict[str, Any]:
    data = _data(answer)
    if data["status"] != "completed":
        raise RuntimeError(f"the edit is {data['status']}: {data['error']}")
    return data


def _data(answer: httpx2.Response) -> dict[str, Any]:
    data: dict[str, Any] = answer.raise_for_status().json()["data"]
    if data["status"] == "failed":
        raise RuntimeError(f"the edit failed: {data['error']}")
    return data
