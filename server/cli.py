"""The command `qwen-edit`."""

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import typer
import uvicorn
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from pipelines.catalog import Catalog, ModelChoice
from pipelines.errors import ModelNotFound
from server.app import VERSION, build_parts, choose_model, create_app, lock_data_folder
from server.client import Client, ClientError, EditOptions, parse_lora
from server.settings import Dtype, Offload, Settings, SettingsError, read_settings
from server.store.database import DataFolderInUse

# What a client may still be sent after SIGTERM before its connection is cut, in seconds.
SHUTDOWN_GRACE_S = 3

app = typer.Typer(
    help="Run Qwen-Image-Edit-Plus on your own GPUs, and edit pictures with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
out = Console()
err = Console(stderr=True)

Server = Annotated[
    str, typer.Option("--server", help="Address of the server", envvar="QWEN_EDIT_SERVER")
]
Key = Annotated[str | None, typer.Option("--key", help="API key", envvar="QWEN_EDIT_KEY")]
DEFAULT_SERVER = "http://127.0.0.1:8000"
JOB_COLUMNS = "status", "contract", "step", "seconds", "prompt"


@app.command()
def serve(
    host: Annotated[str | None, typer.Option(help="Address to listen on [127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port; 0 picks a free one [8000]")] = None,
    model: Annotated[str | None, typer.Option(help="Directory, name, cached hub id, demo")] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="Models and LoRAs [weights]")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="Jobs, inputs, outputs [data]")] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:0,cuda:1")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="What the model computes in [auto]")] = None,
    offload: Annotated[Offload | None, typer.Option(help="Keep weights in host memory")] = None,
    public_url: Annotated[str | None, typer.Option(help="Base of URLs in answers")] = None,
    no_auth: Annotated[bool | None, typer.Option("--no-auth", help="Serve without keys")] = None,
    offline: Annotated[bool | None, typer.Option("--offline", help="Fetch nothing")] = None,
) -> None:
    """Start the server. Every setting is also a variable QWEN_EDIT_…; the README lists them all."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    flags = {name: value for name, value in locals().items() if value is not None}
    try:
        settings = read_settings(**flags)
        lock = lock_data_folder(settings.data_dir)
        catalog, choice = choose_model(settings)
    except (SettingsError, DataFolderInUse, ModelNotFound) as exc:
        _print_error(str(exc))
        raise typer.Exit(2) from exc
    try:
        asyncio.run(_serve(settings, catalog, choice))
    finally:
        lock.release()


async def _serve(settings: Settings, catalog: Catalog, choice: ModelChoice) -> None:
    parts = build_parts(settings, choice, catalog)
    config = uvicorn.Config(
        create_app(parts),
        host=settings.host,
        port=settings.port,
        log_level="warning",
        timeout_graceful_shutdown=SHUTDOWN_GRACE_S,
    )
    sock = _bind(settings)
    address = f"http://{settings.host}:{sock.getsockname()[1]}"
    logging.getLogger(__name__).info("qwen-edit-server %s listens on %s", VERSION, address)
    await StoppableServer(config, parts.queue.close).serve(sockets=[sock])


class StoppableServer(uvicorn.Server):
    """uvicorn, but a signal first ends the event streams, which it would otherwise wait for."""

    def __init__(self, config: uvicorn.Config, end_streams: Callable[[], None]) -> None:
        super().__init__(config)
        self._end_streams = end_streams

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """End on SIGINT and SIGTERM with exit code 0; uvicorn itself would raise them again."""
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
        """End the streams, then shut down; a second Ctrl-C does not wait for anything."""
        self._end_streams()
        super().handle_exit(sig, frame)


def _bind(settings: Settings) -> socket.socket:
    """Bind before the model is loaded, so that a taken port is said at once."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        sock.bind((settings.host, settings.port))
        # from here on a client that comes early waits instead of being refused
        sock.listen()
    except OSError as exc:
        _print_error(f"{settings.host}:{settings.port}: {exc.strerror}")
        raise typer.Exit(2) from exc
    return sock


@app.command()
def edit(
    images: Annotated[list[Path], typer.Argument(help="One to three pictures", exists=True)],
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="What to change")],
    lora: Annotated[list[str] | None, typer.Option(help="NAME or URL, with :SCALE")] = None,
    size: Annotated[str | None, typer.Option(help="WIDTH*HEIGHT, each 256–1536")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same picture")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps")] = None,
    cfg: Annotated[float | None, typer.Option(help="True CFG scale")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid")] = None,
    output: Annotated[Path, typer.Option("-o", "--output", help="Where to save")] = Path("out.png"),
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Edit pictures on a running server."""
    options = EditOptions(
        prompt=prompt,
        images=tuple(images),
        loras=tuple(parse_lora(text) for text in lora or ()),
        size=size,
        seed=seed,
        num_inference_steps=steps,
        true_cfg_scale=cfg,
        negative_prompt=negative_prompt,
        output_format=_format_of(output),
    )
    with _errors_said(), Client(server, key) as client:
        job = client.submit(options)
        try:
            job = _follow(client, job)
        except KeyboardInterrupt:
            client.delete(job["id"])
            err.print("canceled")
            raise typer.Exit(130) from None
        if job["status"] != "succeeded":
            message = job["error"]["message"] if job["error"] else job["status"]
            raise ClientError(message)
        result = job["outputs"][0]
        output.write_bytes(client.download(result["url"]))
    seconds = "  ".join(f"{stage} {value:.2f} s" for stage, value in job["seconds"].items())
    out.print(f"{escape(str(output))}  {result['width']}×{result['height']}  seed {result['seed']}")
    out.print(f"[dim]{seconds}[/dim]", soft_wrap=True)


@app.command()
def jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first")] = 20,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """List the jobs of a running server."""
    with _errors_said(), Client(server, key) as client:
        page = client.jobs(limit)
    # a cut id is of no use
    table = Table(Column("id", no_wrap=True, overflow="ignore"), *JOB_COLUMNS, box=None)
    for job in page["items"]:
        step = f"{job['step']}/{job['steps']}" if job["steps"] else ""
        if job["position"] is not None:
            step = f"{job['position']} ahead"
        total = sum(job["seconds"].values())
        seconds = f"{total:.1f}" if total else ""
        prompt = job["prompt"] if len(job["prompt"]) <= 40 else job["prompt"][:39] + "…"
        cells = (job["status"], job["contract"], step, seconds, escape(prompt))
        table.add_row(job["id"], *cells)
    out.print(table)
    out.print(f"[dim]{len(page['items'])} of {page['total']}[/dim]")


@app.command()
def loras(server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """List the LoRAs that a running server has."""
    with _errors_said(), Client(server, key) as client:
        found = client.capabilities()["loras"]
    if not found:
        out.print("No LoRAs: put .safetensors files into the server's weights/loras folder.")
    table = Table("name", "MB", box=None)
    for lora in found:
        table.add_row(escape(lora["name"]), f"{lora['size_bytes'] / 1e6:.1f}")
    if found:
        out.print(table)


def _print_error(message: str) -> None:
    # escaped: a message quotes what a user typed, which may look like markup
    err.print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)


def main() -> None:
    """Run the command line."""
    # a closed pipe (`qwen-edit jobs | head`) ends the command without a word
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    app()


def _follow(client: Client, job: dict[str, Any]) -> dict[str, Any]:
    """Show the job's steps until it is final."""
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, TimeElapsedColumn(), console=err, transient=True) as progress:
        bar = progress.add_task("queued", total=None)
        for job in client.follow(job["id"]):  # noqa: B020 - each event is the job as it is now
            words = job["stage"] or job["status"]
            if job["position"]:
                words = f"{job['position']} ahead"
            progress.update(bar, description=words, completed=job["step"] or 0, total=job["steps"])
    return job


def _format_of(path: Path) -> str:
    formats = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg", ".webp": "webp"}
    found = formats.get(path.suffix.lower())
    if found is None:
        known = ", ".join(formats)
        raise typer.BadParameter(f"{path} must end in one of {known}", param_hint="--output")
    return found


class _errors_said:  # noqa: N801 - reads as a phrase
    """A client's error becomes a sentence and an exit code."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, ClientError):
            _print_error(str(exc))
            sys.exit(1)


if __name__ == "__main__":
    main()
