"""The reasons why the server cannot take jobs now, reported by whoever knows one."""


class Readiness:
    """One reason per source; ready while there is none."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}
        # set where the server cannot go on: it stops with exit code 1
        self.fatal: str | None = None

    @property
    def reason(self) -> str | None:
        """The oldest reason, or None."""
        return next(iter(self._reasons.values()), None)

    def block(self, source: str, reason: str) -> None:
        """Report a reason, or change the one of this source."""
        self._reasons[source] = reason

    def clear(self, source: str) -> None:
        """Withdraw the reason of this source, if it has one."""
        self._reasons.pop(source, None)
