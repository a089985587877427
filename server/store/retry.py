"""Retries of what the disk refuses: its states end some day."""

from collections.abc import Awaitable, Callable, Iterator
from typing import TypeVar

from server.errors import StorageFull

MIN_RETRY_S = 0.5
MAX_RETRY_S = 10.0

T = TypeVar("T")


def retry_delays_s() -> Iterator[float]:
    """Yield the pause before each retry, for ever: 0.5 seconds, doubled up to 10."""
    delay_s = MIN_RETRY_S
    while True:
        yield delay_s
        delay_s = min(MAX_RETRY_S, 2 * delay_s)


async def until_stored(
    work: Callable[[], Awaitable[T]],
    sleep: Callable[[float], Awaitable[None]],
    on_refusal: Callable[[StorageFull, float], None],
) -> T:
    """Run `work` until it raises no StorageFull, and return its result.

    `on_refusal` receives each StorageFull and the seconds until the next attempt.
    """
    delays_s = retry_delays_s()
    while True:
        try:
            return await work()
        except StorageFull as exc:
            delay_s = next(delays_s)
            on_refusal(exc, delay_s)
        await sleep(delay_s)
