"""The step watchdog: how long a worker may be silent during a job before it counts as hung."""

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from pipelines.api.messages import JobEvent, Stage, Step
from server.job import Job

# The default limit, in multiples of the slowest step seen, and its lower bound.
FACTOR = 20
MIN_LIMIT_S = 60.0


@dataclass(frozen=True, slots=True)
class JobKind:
    """Jobs whose steps take about the same time; offload is the same for all jobs of a server.

    `area` is the output's area in half octaves, None where the size follows the images: few kinds,
    whatever sizes clients ask for.
    """

    area: int | None
    references: int

    @classmethod
    def of(cls, job: Job) -> "JobKind":
        """The kind of a job."""
        size = job.request.params.size
        area = None if size is None else round(2 * math.log2(math.prod(size)))
        return cls(area, len(job.images))


class StepTimes:
    """The longest silence of each kind of job that ended with a sign of life."""

    def __init__(
        self, fixed_limit_s: float | None, *, on_step: Callable[[float], None] = lambda _: None
    ) -> None:
        """`fixed_limit_s` is the operator's limit for all jobs, None for the default.

        `on_step` gets the seconds of each step.
        """
        self._fixed_limit_s = fixed_limit_s
        self._on_step = on_step
        self._slowest_s: dict[JobKind, float] = {}
        self._kinds_with_steps: set[JobKind] = set()

    def limit_s(self, kind: JobKind) -> float | None:
        """The longest silence to accept; None until a step of the kind has been seen."""
        if self._fixed_limit_s is not None:
            return self._fixed_limit_s
        if kind not in self._kinds_with_steps:
            return None
        return max(MIN_LIMIT_S, FACTOR * self._slowest_s[kind])

    def note(self, kind: JobKind, silence_s: float, *, is_step: bool) -> None:
        """Add a silence. Encoding and decoding count too: they may be slower than a step."""
        self._slowest_s[kind] = max(silence_s, self._slowest_s.get(kind, 0.0))
        if is_step:
            self._kinds_with_steps.add(kind)
            self._on_step(silence_s)


class SilenceWatch:
    """Watches one run of a job for a silence that is too long."""

    def __init__(
        self,
        times: StepTimes,
        kind: JobKind,
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]],
    ) -> None:
        self._times = times
        self._kind = kind
        self._clock = clock
        self._sleep = sleep
        self._last_at = clock()
        self._heard = asyncio.Event()

    def hear(self, event: JobEvent) -> None:
        """Note a sign of life."""
        now = self._clock()
        is_step = isinstance(event, Step) and event.stage is Stage.DENOISE and event.step > 0
        self._times.note(self._kind, now - self._last_at, is_step=is_step)
        self._last_at = now
        self._heard.set()

    async def silence(self) -> float:
        """Return once the worker has been silent for longer than allowed: for how many seconds.

        Another call starts from then.
        """
        while True:
            limit_s = self._times.limit_s(self._kind)
            if limit_s is None:
                self._heard.clear()
                await self._heard.wait()
            elif (left_s := self._last_at + limit_s - self._clock()) > 0:
                await self._sleep(left_s)
            else:
                self._last_at = self._clock()
                return limit_s
