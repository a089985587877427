"""Delivers job webhooks, retrying with backoff until the receiver returns 2xx.

A delivery's row is written in the transaction that ends its job, so a killed server loses none.
Each contract renders and signs its own webhooks.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from server.errors import FetchFailed, NotFound
from server.job import Job
from server.metrics import Metrics
from server.store import webhooks
from server.store.database import Database
from server.store.webhooks import Delivery, DeliveryState

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
CONCURRENT_DELIVERIES = 8
MAX_DELAY_S = 600.0


@dataclass(frozen=True, slots=True)
class WebhookFormat:
    """A contract's webhook for an ended job.

    `render` returns the body. `headers` returns the headers for the job, the time of sending in
    whole Unix seconds, and the body. `max_retries` does not count the first attempt.
    """

    render: Callable[[Job], Awaitable[bytes]]
    headers: Callable[[Job, int, bytes], Mapping[str, str]]
    max_retries: int


class Poster(Protocol):
    """Sends a POST; `server.net.fetch.Fetcher` checks the address again."""

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, field: str
    ) -> int:
        """Return the status of the response. Raises FetchFailed."""


def backoff_s(attempts: int) -> float:
    """Return the seconds to wait after this many failed attempts: 2, 8, 32, … up to 600."""
    return float(min(MAX_DELAY_S, 2 * 4 ** (attempts - 1)))


class WebhookSender:
    """Sends due deliveries. A slow or dead receiver delays only its own."""

    def __init__(
        self,
        database: Database,
        poster: Poster,
        formats: Mapping[str, WebhookFormat],
        *,
        added: asyncio.Event,
        find_job: Callable[[str], Awaitable[Job]],
        clock: Callable[[], float],
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        metrics: Metrics | None = None,
    ) -> None:
        """`formats` has one per contract; `added` is set when a row has been written; `find_job`
        raises NotFound for a deleted job.
        """
        self._database = database
        self._poster = poster
        self._formats = formats
        self._added = added
        self._find_job = find_job
        self._clock = clock
        self._sleep = sleep
        self._attempts = (metrics or Metrics()).webhook_attempts
        self._open: set[int] = set()
        self._slots = asyncio.Semaphore(CONCURRENT_DELIVERIES)

    async def serve(self) -> None:
        """Deliver until cancelled; the next server resumes pending deliveries."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._added.clear()
                # a delivery that finishes while the rows are read may still be pending in them
                open_before = frozenset(self._open)
                for delivery in await self._database.read(webhooks.pending):
                    if delivery.id not in open_before:
                        self._open.add(delivery.id)
                        group.create_task(self._see_through(delivery))
                await self._added.wait()

    async def _see_through(self, delivery: Delivery) -> None:
        while delivery.state is DeliveryState.PENDING:
            await self._sleep(max(0.0, delivery.next_at - self._clock()))
            async with self._slots:
                delivery = await self._attempt(delivery)
            is_pending = delivery.state is DeliveryState.PENDING
            outcome = "failed" if is_pending else delivery.state
            self._attempts.labels(delivery.contract, outcome).inc()
            await self._database.persist(partial(webhooks.update, delivery=delivery))
        self._open.discard(delivery.id)

    async def _attempt(self, delivery: Delivery) -> Delivery:
        """Send once and return the delivery's new state."""
        log = logging.LoggerAdapter(logger, {"job": delivery.job_id})
        form = self._formats.get(delivery.contract)
        if form is None:
            log.error("webhook of job %s: its contract has none", delivery.job_id)
            return replace(delivery, state=DeliveryState.GIVEN_UP)
        attempts = delivery.attempts + 1
        try:
            job = await self._find_job(delivery.job_id)
            problem = await self._send(form, job, delivery.url)
        except NotFound:
            return replace(delivery, state=DeliveryState.GIVEN_UP)
        except FetchFailed as exc:
            problem = str(exc)
        except Exception:
            log.exception("webhook of job %s failed in the server", delivery.job_id)
            problem = "the server failed"
        if problem is None:
            log.info("webhook of job %s delivered, attempt %d", delivery.job_id, attempts)
            return replace(delivery, attempts=attempts, state=DeliveryState.DELIVERED)
        if attempts > form.max_retries:
            log.warning("webhook of job %s given up: %s", delivery.job_id, problem)
            return replace(delivery, attempts=attempts, state=DeliveryState.GIVEN_UP)
        log.info("webhook of job %s, attempt %d: %s", delivery.job_id, attempts, problem)
        return replace(delivery, attempts=attempts, next_at=self._clock() + backoff_s(attempts))

    async def _send(self, form: WebhookFormat, job: Job, url: str) -> str | None:
        """Post the contract's webhook; return the reason of a failure, or None."""
        body = await form.render(job)
        headers = {
            "Content-Type": "application/json",
            **form.headers(job, int(self._clock()), body),
        }
        status = await self._poster.post(url, body, headers, timeout_s=TIMEOUT_S, field="webhook")
        return None if 200 <= status < 300 else f"{url} answered {status}"
