"""Who downloads, and who waits."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from server.net.fair_slots import FairSlots, host_of


class Downloads:
    """Starts downloads that last until they are ended, and tells which have begun."""

    def __init__(self, slots: FairSlots) -> None:
        self._slots = slots
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self.running: list[str] = []

    async def start(self, *names: str, host: str = "h") -> None:
        """Start downloads; the first letter of a name is its owner."""
        for name in names:
            self._tasks[name] = asyncio.create_task(self._download(name, host))
        await self._settle()

    async def end(self, name: str) -> None:
        """End a download, or its wait."""
        self._tasks[name].cancel()
        await self._settle()

    async def close(self) -> None:
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)

    async def _download(self, name: str, host: str) -> None:
        async with self._slots.slot(name[0], host):
            self.running.append(name)
            try:
                await asyncio.Event().wait()
            finally:
                self.running.remove(name)

    async def _settle(self) -> None:
        for _ in range(5):
            await asyncio.sleep(0)


@pytest.fixture
async def downloads() -> AsyncIterator[Downloads]:
    made = Downloads(FairSlots(4, per_owner=3, per_host=2))
    yield made
    await made.close()


async def test_one_owner_cannot_take_all_places(downloads: Downloads) -> None:
    await downloads.start("a1", "a2", host="x")
    await downloads.start("a3", "a4", host="y")

    assert downloads.running == ["a1", "a2", "a3"]

    await downloads.start("b1")
    assert downloads.running == ["a1", "a2", "a3", "b1"]


async def test_slow_host_does_not_keep_an_owner_from_another(downloads: Downloads) -> None:
    await downloads.start("a1", "a2", "a3", host="slow")
    await downloads.start("a4", host="quick")

    assert downloads.running == ["a1", "a2", "a4"]

    await downloads.start("b1", host="slow")
    assert downloads.running == ["a1", "a2", "a4", "b1"]


async def test_free_place_goes_to_the_owner_with_the_fewest(downloads: Downloads) -> None:
    await downloads.start("a1", "a2", host="x")
    await downloads.start("b1", "b2", host="x")
    await downloads.start("a3", host="y")
    await downloads.start("c1", "c2", host="x")

    await downloads.end("b1")
    assert downloads.running == ["a1", "a2", "b2", "c1"]

    await downloads.end("a1")
    # c and a have one each, and a came first
    assert downloads.running == ["a2", "b2", "c1", "a3"]


async def test_abandoned_wait_takes_no_place(downloads: Downloads) -> None:
    await downloads.start("a1", "a2", "a3")
    await downloads.end("a3")
    await downloads.end("a1")

    await downloads.start("a4")

    assert downloads.running == ["a2", "a4"]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://Example.com/a/b?c=d", "example.com"),
        ("http://user:pw@example.com:8080/a", "example.com:8080"),
        ("https://example.com", "example.com"),
        ("owner/repo", "owner/repo"),
    ],
)
def test_host_of_a_url(url: str, expected: str) -> None:
    assert host_of(url) == expected
