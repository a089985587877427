"""`qwen-edit jobs`, over a running server."""

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from server.cli.client import Client
from server.cli.console import DEFAULT_SERVER, Key, Server, out, shown_age

# A narrower terminal needs the room for the prompt.
MIN_WIDTH_FOR_CONTRACT = 110


def jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first")] = 20,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """List the jobs of a running server: how long ago they were submitted, and how they went."""
    with Client(server, key) as client:
        page = client.jobs(limit)
    out.print(table_of(page["items"], time.time(), out.width))
    out.print(f"[dim]{len(page['items'])} of {page['total']}[/dim]")


def table_of(items: list[dict[str, Any]], now: float, width: int) -> Table:
    """Lay out jobs for `width` columns: whole ids, prompts cut to what is left."""
    contracts = [Column("contract")] if width >= MIN_WIDTH_FOR_CONTRACT else []
    table = Table(
        # a cut id is of no use
        Column("id", no_wrap=True, overflow="ignore"),
        Column("age", justify="right"),
        "status",
        Column("took", justify="right"),
        *contracts,
        Column("prompt", no_wrap=True, overflow="ellipsis", ratio=1),
        box=None,
        expand=True,
        padding=(0, 2, 0, 0),
        pad_edge=False,
    )
    for job in items:
        age = shown_age(now - job["created_at"])
        contract = [job["contract"]] if contracts else []
        prompt = escape(" ".join(job["prompt"].split()))
        table.add_row(job["id"], age, job["status"], _progress(job), *contract, prompt)
    return table


def _progress(job: Mapping[str, Any]) -> str:
    """The seconds a finished job ran, not counting its wait; else how far it has come."""
    if job["position"] is not None:
        return f"{job['position']} ahead"
    if job["started_at"] is not None and job["finished_at"] is not None:
        return f"{job['finished_at'] - job['started_at']:.1f}s"
    return f"{job['step']}/{job['steps']}" if job["steps"] else ""
