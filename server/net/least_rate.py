"""The least rate of a download: a host that sends a byte now and then keeps no place."""

import time

import httpx2

WINDOW_S = 10.0
LEAST_BYTES = 40 * 1024


class TooSlow(httpx2.HTTPError):
    """A host sends less than the least rate. Not a broken connection, which would be retried."""


class LeastRate:
    """Watches one download."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._received = 0

    def note(self, received: int) -> None:
        """Count bytes that have arrived. Raises TooSlow at the end of a window with too few."""
        self._received += received
        seconds = time.monotonic() - self._began
        if seconds < WINDOW_S:
            return
        if self._received < LEAST_BYTES:
            raise TooSlow(
                f"it sent {self._received} bytes in {seconds:.0f} seconds, and at least "
                f"{LEAST_BYTES // 1024} KiB are required"
            )
        self._began, self._received = time.monotonic(), 0
