"""`qwen-edit serve`."""

import asyncio
import contextlib
import functools
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Annotated, cast

import typer
import uvicorn

from pipelines.api.errors import ModelNotFound
from pipelines.api.load_options import Dtype, Offload
from pipelines.files.catalog import Catalog, ModelChoice
from server.app import create_app
from server.cli.console import print_error
from server.log import start_logging
from server.settings import Settings, SettingsError, read_settings
from server.store.database import DataFolderInUse, DataFolderLock
from server.store.opening import READ_ONLY, StorageUnusable, read_only, wait_for_storage
from server.version import VERSION
from server.web.connection_limits import ConnectionLimits
from server.web.listener import Listener, places, raise_file_limit
from server.web.protocol import LimitedProtocol
from server.web.proxies import TrustedProxies
from server.wiring import Components, build_components, choose_model
from server.workers.local_process import WORKER_COMMAND

logger = logging.getLogger(__name__)

# Seconds in which open responses may finish, once no more jobs run.
SHUTDOWN_GRACE_S = 2
# Seconds after which the process ends whatever still holds it up; every job is on disk. With the
# second that killed workers get at the end of the drain, less than five.
HARD_STOP_S = 3.5


def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one [8000]")] = None,
    model: Annotated[str | None, typer.Option(help="Directory, name, cached hub id, demo")] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="Models and LoRAs")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Jobs, inputs, outputs")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:0,cuda:1")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="What the model computes in [auto]")] = None,
    offload: Annotated[Offload | None, typer.Option(help="Keep weights in host memory")] = None,
    public_url: Annotated[str | None, typer.Option(help="Base of URLs in answers")] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain, for https")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key")] = None,
    no_auth: Annotated[bool | None, typer.Option("--no-auth", help="Serve without keys")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Fetch nothing")] = None,
    page: Annotated[
        bool | None, typer.Option("--page/--no-page", help="Serve the page at / [yes]")
    ] = None,
) -> None:
    """Start the server. Every setting is also a variable, see docs/settings.md."""
    # a closed pipe ends the other commands; here it is a worker or a client that has gone
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    flags = {name: value for name, value in locals().items() if value is not None}
    try:
        settings = read_settings(**flags)
        start_logging(settings.log_format)
        run_server(settings)
    except (SettingsError, DataFolderInUse, StorageUnusable, ModelNotFound) as exc:
        print_error(str(exc))
        raise typer.Exit(2) from exc


def run_server(settings: Settings, *, worker_command: Sequence[str] = WORKER_COMMAND) -> None:
    """Serve until a signal. Raises before anything starts what `serve` reports."""
    try:
        lock = DataFolderLock(settings.data_dir)
    except OSError as exc:
        if exc.errno not in READ_ONLY:
            raise
        raise read_only(settings.data_dir, exc) from exc
    try:
        wait_for_storage(settings.data_dir)
        catalog, choice = choose_model(settings)
        asyncio.run(_serve(settings, catalog, choice, worker_command))
    finally:
        lock.release()


async def _serve(
    settings: Settings, catalog: Catalog, choice: ModelChoice, worker_command: Sequence[str]
) -> None:
    components = build_components(settings, choice, catalog, worker_command=worker_command)
    limits = _connection_limits(settings)
    config = uvicorn.Config(
        create_app(components),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        # through the handlers of this process
        log_config=None,
        # X-Forwarded headers are `TrustedProxies`' to believe
        proxy_headers=False,
        ws="none",
        http=cast(type[asyncio.Protocol], functools.partial(LimitedProtocol, limits)),
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
        ssl_certfile=settings.tls_cert,
        ssl_keyfile=settings.tls_key,
    )
    sock = _bind(settings)
    sock.limit(limits)
    scheme = "https" if settings.tls_cert else "http"
    address = f"{scheme}://{settings.host}:{sock.getsockname()[1]}"
    logger.info("qwen-edit-server %s listens on %s", VERSION, address)
    await StoppableServer(config, components).serve(sockets=[sock])
    if code := _exit_code(components):
        raise typer.Exit(code)


class StoppableServer(uvicorn.Server):
    """A uvicorn server that drains on SIGTERM, and stops at once on SIGINT or a second signal.

    It ends its event streams then instead of waiting for them.
    """

    def __init__(self, config: uvicorn.Config, components: Components) -> None:
        super().__init__(config)
        self._components = components
        self._draining: asyncio.Task[None] | None = None

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Exit with code 0 on SIGINT and SIGTERM; uvicorn itself would raise them again."""
        loop = asyncio.get_running_loop()
        signals = signal.SIGINT, signal.SIGTERM
        for number in signals:
            loop.add_signal_handler(number, self.handle_exit, number, None)
        try:
            yield
        finally:
            for number in signals:
                loop.remove_signal_handler(number)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Drain after the first SIGTERM, else stop; a signal while it stops cuts responses off."""
        if sig == signal.SIGTERM and self._draining is None and not self.should_exit:
            self._draining = asyncio.create_task(self._drain_and_stop())
            return
        self.force_exit = self.should_exit
        self._stop()

    async def _drain_and_stop(self) -> None:
        try:
            await self._components.drain()
        finally:
            self._stop()

    def _stop(self) -> None:
        if self.should_exit:
            return
        self._components.end_streams()
        self.should_exit = True
        timer = threading.Timer(HARD_STOP_S, self._exit_now)
        # it does not hold up a process that ends in time
        timer.daemon = True
        timer.start()

    def _exit_now(self) -> None:
        logger.error("the server did not stop within %g s", HARD_STOP_S)
        os._exit(_exit_code(self._components))


def _exit_code(components: Components) -> int:
    return 0 if components.services.readiness.fatal is None else 1


def _connection_limits(settings: Settings) -> ConnectionLimits:
    total = places(settings.max_connections, raise_file_limit())
    if total < settings.max_connections:
        logger.warning("the limit of open files allows %d connections (ulimit -n)", total)
    proxies = TrustedProxies(settings.trusted_proxies)
    return ConnectionLimits(
        total,
        settings.max_connections_per_address,
        is_exempt=lambda address: address.is_loopback or proxies.trusts(address),
        clock=time.monotonic,
    )


def _bind(settings: Settings) -> Listener:
    """Bind before the model is loaded, so that a taken port is reported at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    # IPPROTO_TCP: with protocol 0 asyncio keeps Nagle's algorithm, which delays responses by 40 ms
    sock = Listener(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
        # from now on an early client waits instead of being refused
        sock.listen()
    except OSError as exc:
        print_error(f"{settings.host}:{settings.port}: {exc.strerror}")
        raise typer.Exit(2) from exc
    return sock
