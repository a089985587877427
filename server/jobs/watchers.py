"""The tasks that wait for a change of a job."""

import asyncio
import contextlib
from collections.abc import Iterator


class Watch:
    """What has happened to a job since its watcher looked last."""

    def __init__(self, *, follows_position: bool) -> None:
        self.follows_position = follows_position
        self._event = asyncio.Event()
        self._is_changed = False
        self._position: int | None = None

    async def next(self) -> int | None:
        """Wait for something; return the new position if that is all that changed, else None."""
        await self._event.wait()
        position = None if self._is_changed else self._position
        self.clear()
        return position

    def clear(self) -> None:
        """Forget what has happened: the watcher reads the job now."""
        self._event.clear()
        self._is_changed = False
        self._position = None

    def change(self) -> None:
        """Report a change that the watcher must read."""
        self._is_changed = True
        self._event.set()

    def move(self, position: int) -> None:
        """Report the new position of a queued job, which is otherwise as it was."""
        self._position = position
        self._event.set()


class Watchers:
    """One watch per waiting task, by the job it waits for."""

    def __init__(self) -> None:
        self._watches: dict[str, set[Watch]] = {}

    @contextlib.contextmanager
    def watch(self, job_id: str, *, follows_position: bool) -> Iterator[Watch]:
        """A watch of the job during the block."""
        watch = Watch(follows_position=follows_position)
        watches = self._watches.setdefault(job_id, set())
        watches.add(watch)
        try:
            yield watch
        finally:
            watches.discard(watch)
            if not watches:
                self._watches.pop(job_id, None)

    def followed(self) -> list[str]:
        """The jobs whose position somebody follows."""
        return [
            job_id
            for job_id, watches in self._watches.items()
            if any(watch.follows_position for watch in watches)
        ]

    def wake(self, job_id: str) -> None:
        """Tell those who wait for this job that it has changed."""
        for watch in self._watches.get(job_id, ()):
            watch.change()

    def move(self, job_id: str, position: int) -> None:
        """Tell those who follow the position of this job."""
        for watch in self._watches.get(job_id, ()):
            if watch.follows_position:
                watch.move(position)

    def wake_all(self) -> None:
        """Wake all."""
        for job_id in self._watches:
            self.wake(job_id)
