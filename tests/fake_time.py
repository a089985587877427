"""A clock that only the test advances."""

import asyncio


class FakeTime:
    """A clock with a `sleep` that returns once `pass_by` has advanced it far enough."""

    def __init__(self, now: float = 1000.0) -> None:
        self.now = now
        self._sleepers: list[tuple[float, asyncio.Event]] = []
        self._asleep = asyncio.Event()

    def __call__(self) -> float:
        return self.now

    async def sleep(self, seconds: float) -> None:
        awake = asyncio.Event()
        self._sleepers.append((self.now + seconds, awake))
        self._asleep.set()
        await awake.wait()

    async def pass_by(self, seconds: float) -> None:
        """Wait until a task sleeps, then advance the clock and wake the tasks that are due."""
        while not self._sleepers:
            self._asleep.clear()
            await self._asleep.wait()
        self.now += seconds
        due = [sleeper for sleeper in self._sleepers if sleeper[0] <= self.now]
        self._sleepers = [sleeper for sleeper in self._sleepers if sleeper[0] > self.now]
        for _, awake in due:
            awake.set()
