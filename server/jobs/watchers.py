"""The tasks that wait for a change of a job."""

import asyncio
import contextlib
from collections.abc import Iterator


class Watchers:
    """One event per waiting task, by the job it waits for."""

    def __init__(self) -> None:
        self._events: dict[str, set[asyncio.Event]] = {}

    @contextlib.contextmanager
    def watch(self, job_id: str) -> Iterator[asyncio.Event]:
        """An event that each change of the job sets during the block."""
        changed = asyncio.Event()
        events = self._events.setdefault(job_id, set())
        events.add(changed)
        try:
            yield changed
        finally:
            events.discard(changed)
            if not events:
                self._events.pop(job_id, None)

    def wake(self, job_id: str) -> None:
        """Wake those who wait for this job."""
        for changed in self._events.get(job_id, ()):
            changed.set()

    def wake_all(self) -> None:
        """Wake all."""
        for job_id in self._events:
            self.wake(job_id)
