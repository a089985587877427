"""Defers expiry after a jump of the wall clock, which would delete everything at once."""

import logging
from collections.abc import Callable

logger = logging.getLogger(__name__)

# A larger difference between the wall clock and the steady one is a jump.
JUMP_S = 3600.0
# At the start, the last known change may be this old before the clock is in doubt.
GAP_S = 86_400.0
# The time that the operator has to set the clock right.
GRACE_S = 86_400.0


class ExpiryGuard:
    """Compares the wall clock with a steady one, and at the start with what is on disk."""

    def __init__(
        self, wall: Callable[[], float], steady: Callable[[], float], newest: float | None
    ) -> None:
        """`newest` is the latest time on disk, in Unix seconds."""
        self._wall, self._steady = wall, steady
        self._difference = wall() - steady()
        self._deferred_until = steady()
        if newest is not None and wall() - newest > GAP_S:
            self._defer(f"the last change of a job is {(wall() - newest) / 3600:.0f} hours old")

    def may_expire(self) -> bool:
        """Return whether ages can be trusted now."""
        difference = self._wall() - self._steady()
        if difference - self._difference > JUMP_S:
            hours = (difference - self._difference) / 3600
            self._defer(f"the clock has jumped ahead by {hours:.0f} hours")
        self._difference = difference
        return self._steady() >= self._deferred_until

    def _defer(self, why: str) -> None:
        logger.warning("nothing expires for %.0f hours: %s", GRACE_S / 3600, why)
        self._deferred_until = self._steady() + GRACE_S
