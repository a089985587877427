"""How many jobs each owner may submit in a minute."""

import math
from collections import deque
from collections.abc import Callable

from server.errors import TooManySubmits

WINDOW_S = 60.0


class SubmitRate:
    """Counts the submits of each owner in the last minute, in memory.

    It holds at most `per_minute` times for each owner, and there are no more owners than keys.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float]) -> None:
        """`per_minute` 0 allows any number; `clock` is a monotonic one, in seconds."""
        self._per_minute = per_minute
        self._clock = clock
        self._times: dict[str | None, deque[float]] = {}

    def count(self, owner: str | None) -> None:
        """Count one submit. Raises TooManySubmits, and then counts nothing."""
        if not self._per_minute:
            return
        now, times = self._clock(), self._times.setdefault(owner, deque())
        while times and times[0] <= now - WINDOW_S:
            times.popleft()
        if len(times) >= self._per_minute:
            retry_after_s = max(1, math.ceil(times[0] + WINDOW_S - now))
            raise TooManySubmits(
                f"This key submitted {len(times)} jobs in the last minute, and "
                f"QWEN_EDIT_MAX_SUBMITS_PER_MINUTE_PER_KEY allows {self._per_minute}. Try again in "
                f"{retry_after_s} seconds.",
                retry_after_s=retry_after_s,
            )
        times.append(now)
