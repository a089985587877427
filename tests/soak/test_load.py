"""A full queue, many followers and many polls at once, for `make soak` alone: it measures time."""

import asyncio
import json
import os
import sys
from pathlib import Path

import httpx2
import pytest

from tests.live_server import LONG, LiveServer, live_server
from tests.server.contracts.owners import BODY

pytestmark = pytest.mark.skipif(
    "QWEN_SOAK_JOBS" not in os.environ, reason="a measurement, which other tests would disturb"
)

WAITING = 1000
STREAMS = 200
POLLS_PER_S = 200
SECONDS = 60
# On two cores, which the clients share with the server.
P99_S = 0.100
RSS_GROWTH = 0.05


def rss_bytes(server: LiveServer) -> int:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Followers:
    """Open event streams, and counts their events."""

    def __init__(self, server: LiveServer, ids: list[str]) -> None:
        self._url = httpx2.URL(server.url)
        self._ids = ids
        self.events = 0
        self.all_open = asyncio.Event()

    async def follow_all(self) -> None:
        """Follow every job until cancelled."""
        async with asyncio.TaskGroup() as group:
            for job_id in self._ids:
                group.create_task(self._follow(job_id))

    async def _follow(self, job_id: str) -> None:
        reader, writer = await asyncio.open_connection(self._url.host, self._url.port)
        writer.write(f"GET /v1/edits/{job_id}/events HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        try:
            assert b" 200 OK" in await reader.readline()
            while part := await reader.read(65_536):
                self.events += part.count(b"data:")
                if self.events >= len(self._ids):
                    self.all_open.set()
            raise AssertionError(f"the stream of {job_id} ended")
        finally:
            writer.close()


async def move(server: LiveServer, ids: list[str]) -> None:
    """Cancel the first job twice a second, which moves all others up."""
    async with httpx2.AsyncClient(timeout=60) as client:
        for job_id in ids:
            answer = await client.post(f"{server.url}/v1/edits/{job_id}/cancel")
            assert answer.status_code == 200
            await asyncio.sleep(0.5)


async def poll(server: LiveServer, ids: list[str]) -> tuple[list[float], list[int]]:
    """Return the sorted seconds of the polls, and the server's memory at half time and the end."""
    url = httpx2.URL(server.url)
    arguments = (url.host, str(url.port), str(POLLS_PER_S), str(SECONDS))
    poller = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.soak.poller", *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    polling = asyncio.create_task(poller.communicate("\n".join(ids).encode()))
    await asyncio.sleep(SECONDS / 2)
    half = rss_bytes(server)
    output, _ = await polling
    return sorted(json.loads(output)), [half, rss_bytes(server)]


async def test_polls_stay_quick_and_memory_flat(tiny_model: Path, tmp_path: Path) -> None:
    with live_server(tiny_model, tmp_path, MAX_WAITING_JOBS=2 * WAITING) as server:
        ids = [
            server.http.post(f"{server.url}/v1/edits", json=BODY | LONG).json()["id"]
            for _ in range(WAITING + 1)
        ]
        followers = Followers(server, ids[-STREAMS:])
        others = [asyncio.create_task(followers.follow_all())]
        # opening two hundred at once takes half a second of the server; that is another question
        await followers.all_open.wait()
        others.append(asyncio.create_task(move(server, ids[1:-STREAMS])))
        seconds, (half, end) = await poll(server, ids)
        for task in others:
            # an error of one, if there is one
            assert not task.done() or task.result() is None
            task.cancel()
        await asyncio.gather(*others, return_exceptions=True)

    p50, p99 = seconds[len(seconds) // 2], seconds[len(seconds) * 99 // 100]
    print(
        f"{len(seconds)} polls: p50 {p50 * 1e3:.1f} ms, p99 {p99 * 1e3:.1f} ms; "
        f"{followers.events} events; RSS {end / 2**20:.0f} MiB, "
        f"{end / half - 1:+.1%} since half time"
    )
    assert len(seconds) == SECONDS * POLLS_PER_S
    assert followers.events > STREAMS * SECONDS // 2
    assert p99 < P99_S
    assert end / half - 1 < RSS_GROWTH
