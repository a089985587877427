"""Start and stop of everything that runs as long as the server."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import AsyncIterator, Coroutine

from server.errors import StorageFull
from server.jobs.expiry_guard import ExpiryGuard
from server.store import jobs, last_run
from server.store.storage_watch import DatabaseGone
from server.web.contract import Services
from server.wiring import Components

logger = logging.getLogger(__name__)

EXPIRY_INTERVAL_S = 3600.0


@contextlib.asynccontextmanager
async def running(components: Components) -> AsyncIterator[None]:
    """Start the components, and stop them within seconds."""
    await _start(components)
    tasks = [
        asyncio.create_task(_stop_server_on_failure(components, name, work))
        for name, work in (
            ("the dispatcher", components.dispatcher.serve()),
            ("the preparer", components.preparer.serve()),
            ("the webhook sender", components.webhooks.serve()),
            ("the expiry", _expire(components)),
            ("the watch of the storage", components.storage_watch.serve()),
        )
    ]
    try:
        yield
    finally:
        await _stop(components, tasks)


async def _start(components: Components) -> None:
    services = components.services
    await _remove_orphans(components)
    for job in await services.queue.open():
        components.preparer.add(job)
    await services.uploads.open()
    await services.edits.remove_leftovers()
    components.executor.start()
    if components.playground is not None:
        components.playground.start()


async def _remove_orphans(components: Components) -> None:
    """Remove the outputs of jobs that the last server was running; they run again."""
    database = components.database
    await database.persist(jobs.create_table)
    since = await database.read(last_run.interrupted_since)
    # only then: it reads the result of every job
    named = frozenset() if since is None else await database.read(last_run.output_names)
    await asyncio.to_thread(components.services.outputs.remove_orphans, named, since)


async def _stop(components: Components, tasks: list[asyncio.Task[None]]) -> None:
    components.end_streams()
    if components.playground is not None:
        await components.playground.stop()
    components.executor.close()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    await components.executor.stop()
    await components.fetcher.close()
    components.inputs.close()
    components.services.outputs.close()
    components.database.close()


async def _expire(components: Components) -> None:
    """Delete what has expired every hour, unless the clock is in doubt."""
    newest = await components.database.read(last_run.newest_change)
    guard = ExpiryGuard(components.services.clock, time.monotonic, newest)
    while True:
        if guard.may_expire():
            await _delete_expired(components.services)
        await asyncio.sleep(EXPIRY_INTERVAL_S)


async def _delete_expired(services: Services) -> None:
    """Delete expired jobs, outputs and uploads."""
    older_than = services.clock() - services.settings.keep_outputs_h * 3600
    try:
        if expired := await services.edits.expire(older_than):
            logger.info("deleted %d expired jobs", expired)
        # an hour later: a file is written a moment before its job ends
        await asyncio.to_thread(services.outputs.sweep, older_than - EXPIRY_INTERVAL_S)
        await services.queue.forget_keys()
        if expired := await services.uploads.expire():
            logger.info("deleted %d expired uploads", expired)
    except (StorageFull, OSError) as exc:
        logger.error("nothing more expires for now: %s", exc)


async def _stop_server_on_failure(
    components: Components, name: str, work: Coroutine[object, object, None]
) -> None:
    """Run work that never ends; if it fails, stop the server, which its supervisor restarts."""
    try:
        await work
    except Exception as exc:
        if isinstance(exc, DatabaseGone):
            logger.critical("%s The server stops.", exc)
        else:
            logger.critical("%s failed; the server stops", name, exc_info=True)
        components.services.readiness.fatal = f"{name} failed: {exc}"
        # not SIGTERM: there is nothing to wait for
        os.kill(os.getpid(), signal.SIGINT)
