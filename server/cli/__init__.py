"""The command `qwen-edit`."""

import signal

import typer

from server.cli import doctor, edit, loras, serve
from server.cli.pull import pull

app = typer.Typer(
    help="Run Qwen-Image-Edit-Plus on your own GPUs, and edit images with it.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command()(serve.serve)
app.command()(doctor.doctor)
app.command()(pull)
app.command()(edit.edit)
app.command()(edit.jobs)
app.add_typer(loras.app, name="loras")


def main() -> None:
    """Run the command line."""
    # a closed pipe (`qwen-edit jobs | head`) ends the command without a word
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    app()
