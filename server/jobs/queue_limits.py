"""How many jobs may wait."""

import sqlite3
from dataclasses import dataclass

from server.job import JobStatus
from server.store import jobs


@dataclass(frozen=True, slots=True)
class QueueLimits:
    """At most `waiting` jobs may wait in all, and of one owner `waiting_per_owner` unless 0."""

    waiting: int
    waiting_per_owner: int = 0

    def excess(self, connection: sqlite3.Connection, owner: str | None) -> str | None:
        """Return which limit another job of this owner would exceed, or None."""
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
