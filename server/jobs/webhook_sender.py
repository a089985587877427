"""Tells the addresses that jobs named how they ended, again and again until one tells us it heard.

A delivery's row is written in the transaction that ends its job, so that no kill of the server
loses it. What is said and how it is signed is the contract's.
"""

import asyncio
import logging
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Protocol

from server.errors import FetchFailed, NotFound
from server.job import Job
from server.store import webhooks
from server.store.database import Database
from server.store.webhooks import Delivery, DeliveryState

logger = logging.getLogger(__name__)

TIMEOUT_S = 10.0
CONCURRENT_DELIVERIES = 8
MAX_DELAY_S = 600.0


@dataclass(frozen=True, slots=True)
class WebhookFormat:
    """How a contract tells of a job that has ended.

    `render` gives the body. `headers` gives what goes beside it, from the job's id, the moment of
    sending in whole Unix seconds, and the body. `max_retries` counts what follows the first try.
    """

    render: Callable[[Job], Awaitable[bytes]]
    headers: Callable[[str, int, bytes], Mapping[str, str]]
    max_retries: int


class Poster(Protocol):
    """What sends: `server.net.fetch.Fetcher`, which checks the address again."""

    async def post(
        self, url: str, body: bytes, headers: Mapping[str, str], *, timeout_s: float, field: str
    ) -> int:
        """The status of the answer. Raises FetchFailed."""


def backoff_s(attempts: int) -> float:
    """Seconds to wait after so many failed attempts: 2, 8, 32, … up to ten minutes."""
    return float(min(MAX_DELAY_S, 2 * 4 ** (attempts - 1)))


class WebhookSender:
    """Sends what is due. A slow or dead receiver delays its own deliveries alone."""

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
    ) -> None:
        """`formats` by contract; `added` is set when a row was written; `find_job` may raise
        NotFound, for a job that was deleted.
        """
        self._database = database
        self._poster = poster
        self._formats = formats
        self._added = added
        self._find_job = find_job
        self._clock = clock
        self._sleep = sleep
        self._open: set[int] = set()
        self._slots = asyncio.Semaphore(CONCURRENT_DELIVERIES)

    async def serve(self) -> None:
        """Deliver until cancelled; what is not delivered by then is when the server runs again."""
        async with asyncio.TaskGroup() as group:
            while True:
                self._added.clear()
                # one that ends while the rows are read is pending in them, and is over
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
            await self._database.write(partial(webhooks.update, delivery=delivery))
        self._open.discard(delivery.id)

    async def _attempt(self, delivery: Delivery) -> Delivery:
        """Send once, and say how the delivery stands after it."""
        form = self._formats.get(delivery.contract)
        if form is None:
            logger.error("webhook of job %s: its contract has none", delivery.job_id)
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
            logger.exception("webhook of job %s failed in the server", delivery.job_id)
            problem = "the server failed"
        if problem is None:
            logger.info("webhook of job %s delivered, attempt %d", delivery.job_id, attempts)
            return replace(delivery, attempts=attempts, state=DeliveryState.DELIVERED)
        if attempts > form.max_retries:
            logger.warning("webhook of job %s given up: %s", delivery.job_id, problem)
            return replace(delivery, attempts=attempts, state=DeliveryState.GIVEN_UP)
        logger.info("webhook of job %s, attempt %d: %s", delivery.job_id, attempts, problem)
        return replace(delivery, attempts=attempts, next_at=self._clock() + backoff_s(attempts))

    async def _send(self, form: WebhookFormat, job: Job, url: str) -> str | None:
        """Post what the contract says of the job; give what went wrong, None when it was heard."""
        body = await form.render(job)
        headers = {
            "Content-Type": "application/json",
            **form.headers(job.id, int(self._clock()), body),
        }
        status = await self._poster.post(url, body, headers, timeout_s=TIMEOUT_S, field="webhook")
        return None if 200 <= status < 300 else f"{url} answered {status}"


def read_or_create_secret(path: Path) -> str:
    """The secret that webhooks are signed with, drawn once and readable by its owner alone."""
    if path.exists():
        return path.read_text().strip()
    unfinished = path.with_name(path.name + ".part")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(f"whsec_{secrets.token_hex(32)}\n")
    unfinished.rename(path)
    return path.read_text().strip()
