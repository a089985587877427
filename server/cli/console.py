"""What the commands share: the two outputs, the options of a client, how an error is said."""

import sys
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from server.cli.client import ClientError

out = Console()
err = Console(stderr=True)

Server = Annotated[
    str, typer.Option("--server", help="Address of the server", envvar="QWEN_EDIT_SERVER")
]
Key = Annotated[str | None, typer.Option("--key", help="API key", envvar="QWEN_EDIT_KEY")]
DEFAULT_SERVER = "http://127.0.0.1:8000"


def print_error(message: str) -> None:
    """Say an error on stderr."""
    # escaped: a message quotes what a user typed, which may look like markup
    err.print(f"[red]error:[/red] {escape(message)}", highlight=False, soft_wrap=True)


def shown_size(count: int) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.1f} MB"


class errors_said:  # noqa: N801 - reads as a phrase
    """A client's error becomes a sentence and an exit code."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: object, exc: BaseException | None, traceback: object) -> None:
        if isinstance(exc, ClientError):
            print_error(str(exc))
            sys.exit(1)
