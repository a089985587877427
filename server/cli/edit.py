"""`qwen-edit edit` and `qwen-edit jobs`, over a running server."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Column, Table

from server.cli.console import DEFAULT_SERVER, Key, Server, err, errors_said, out
from server.client import Client, ClientError, EditOptions, parse_lora

JOB_COLUMNS = "status", "contract", "step", "seconds", "prompt"


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
    with errors_said(), Client(server, key) as client:
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


def jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first")] = 20,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """List the jobs of a running server."""
    with errors_said(), Client(server, key) as client:
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
