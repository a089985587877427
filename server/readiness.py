"""The reasons why the server cannot take jobs now, reported by whoever knows one."""

import asyncio
from collections import defaultdict


class Readiness:
    """One reason per source; ready while there is none."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        self._blocked: defaultdict[str, asyncio.Event] = defaultdict(asyncio.Event)
        # set where the server cannot go on: it stops with exit code 1
        self.fatal: str | None = None

    @property
    def reason(self) -> str | None:
        """The oldest reason, or None."""
        return next(iter(self._reasons.values()), None)

    def block(self, source: str, reason: str) -> None:
        """Report a reason, or change the one of this source."""
        self._reasons[source] = reason
        self._blocked[source].set()

    def clear(self, source: str) -> None:
        """Withdraw the reason of this source, if it has one."""
        self._reasons.pop(source, None)
        self._blocked[source].clear()

    async def until_blocked(self, source: str) -> str:
        """Wait until this source has a reason, and return it."""
        while (reason := self._reasons.get(source)) is None:
            await self._blocked[source].wait()
        return reason
