"""How many jobs may wait."""

import math
import sqlite3
from dataclasses import dataclass

from server.errors import QueueFull
from server.job import JobStatus
from server.store import jobs

# The Retry-After while no job has finished yet.
UNKNOWN_RUN_S = 30.0


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """At most `waiting` jobs may wait in all, and of one owner `waiting_per_owner` unless 0."""

    waiting: int
    waiting_per_owner: int = 0

    def check(self, connection: sqlite3.Connection, owner: str | None) -> None:
        """Raise QueueFull if another job of this owner would exceed a limit."""
        excess = self._excess(connection, owner)
        if excess is not None:
            mean = jobs.recent_run_seconds(connection)
            # one job's time: then one place is free
            retry_after = max(1, math.ceil(UNKNOWN_RUN_S if mean is None else mean))
            message = f"{excess} Try again in {retry_after} seconds."
            raise QueueFull(message, retry_after_s=retry_after)

    def _excess(self, connection: sqlite3.Connection, owner: str | None) -> str | None:
        waiting = jobs.count(connection, JobStatus.QUEUED)
        if waiting >= self.waiting:
            return f"{waiting} jobs wait, and the server takes at most {self.waiting}."
        own = jobs.count_waiting(connection, owner) if self.waiting_per_owner else 0
        if own >= self.waiting_per_owner > 0:
            return (
                f"{own} jobs of this key wait, and QWEN_EDIT_MAX_WAITING_JOBS_PER_KEY allows "
                f"{self.waiting_per_owner}."
            )
        return None
