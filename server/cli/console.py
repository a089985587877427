"""Output streams, common options, and human-readable sizes and times for all commands."""

from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from server.cli.errors import CommandError

out = Console()
err = Console(stderr=True)

Server = Annotated[
    str, typer.Option("--server", help="Address of the server", envvar="QWEN_EDIT_SERVER")
]
Key = Annotated[str | None, typer.Option("--key", help="API key", envvar="QWEN_EDIT_KEY")]
WeightsDir = Annotated[Path | None, typer.Option(help="Folder of models and LoRAs")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask")]
DEFAULT_SERVER = "http://127.0.0.1:8000"


def print_error(message: str) -> None:
    """Print an error on stderr."""
    # escaped: a message quotes what a user typed, which may look like markup
    err.print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)


def confirm(question: str, *, yes: bool) -> None:
    """Ask before something is removed. Raises CommandError unless the answer is yes."""
    try:
        if yes or typer.confirm(question):
            return
    except typer.Abort:  # Ctrl-C, or no terminal to ask on
        raise CommandError("not confirmed, nothing was removed; --yes does not ask") from None
    raise CommandError("nothing was removed")


def shown_size(count: int) -> str:
    """A number of bytes for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


def shown_age(seconds: float) -> str:
    """A time span for people, in its largest unit."""
    for length, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(int(seconds), 0)}s"
