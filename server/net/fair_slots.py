"""Places for downloads, shared between owners, so that slow ones delay nobody else."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator
from dataclasses import dataclass, field


@dataclass(eq=False, slots=True)
class _Place:
    owner: str | None
    host: str
    granted: asyncio.Event = field(default_factory=asyncio.Event)


class FairSlots:
    """At most `total` downloads at once.

    An owner has at most `per_owner` of them, and from one host at most `per_host`. A free place
    goes to the owner that has the fewest, and among its downloads to the one that came first.
    """

    def __init__(self, total: int, *, per_owner: int, per_host: int) -> None:
        self._total = total
        self._per_owner = per_owner
        self._per_host = per_host
        self._waiting: list[_Place] = []
        self._taken = 0
        self._by_owner: Counter[str | None] = Counter()
        self._by_host: Counter[tuple[str | None, str]] = Counter()

    @contextlib.asynccontextmanager
    async def slot(self, owner: str | None, host: str) -> AsyncIterator[None]:
        """Wait for a place, and hold it during the block."""
        place = _Place(owner, host)
        self._waiting.append(place)
        self._grant()
        try:
            await place.granted.wait()
            yield
        finally:
            if place.granted.is_set():
                self._count(place, -1)
                self._grant()
            else:
                self._waiting.remove(place)

    def _grant(self) -> None:
        while self._taken < self._total:
            allowed = [place for place in self._waiting if self._may_have(place)]
            if not allowed:
                return
            # min keeps the order of those that are equal
            place = min(allowed, key=lambda each: self._by_owner[each.owner])
            self._waiting.remove(place)
            self._count(place, 1)
            place.granted.set()

    def _may_have(self, place: _Place) -> bool:
        return (
            self._by_owner[place.owner] < self._per_owner
            and self._by_host[place.owner, place.host] < self._per_host
        )

    def _count(self, place: _Place, change: int) -> None:
        self._taken += change
        self._by_owner[place.owner] += change
        self._by_host[place.owner, place.host] += change
        # only what is in use is kept
        self._by_owner += Counter()
        self._by_host += Counter()


def host_of(url: str) -> str:
    """Return the host of a URL, or the whole text where it has none."""
    _, _, rest = url.partition("://")
    return rest.partition("/")[0].rpartition("@")[2].lower() or url
