"""The command `qwen-edit`."""

import signal
import sys
from collections.abc import Sequence
from typing import Annotated

import typer
import typer.main

from pipelines.api.errors import EngineError
from server.cli import doctor, edit, jobs, loras, models, presets, serve
from server.cli.console import out, print_error
from server.cli.errors import CommandError
from server.cli.pull import pull
from server.settings import SettingsError
from server.version import VERSION

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)


@app.callback()
def root(
    _: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Show the version and exit",
            callback=lambda wanted: _show_version() if wanted else None,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Run Qwen-Image-Edit-Plus on your own GPUs, and edit images with it."""


app.command()(serve.serve)
app.command()(doctor.doctor)
app.command()(pull)
app.command()(edit.edit)
app.command()(jobs.jobs)
app.command()(presets.presets)
app.add_typer(models.app, name="models")
app.add_typer(loras.app, name="loras")


def main() -> None:
    """Run the command line of this process."""
    # a closed pipe (`qwen-edit jobs | head`) ends the command silently
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    sys.exit(run(sys.argv[1:]))


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    An error is one line on stderr. Exit codes: 1 when the command failed, 2 when the command line
    or a setting is wrong, 130 after Ctrl-C.
    """
    command = typer.main.get_command(app)
    try:
        code = command.main([*arguments] or ["--help"], "qwen-edit", standalone_mode=False)
    except typer.TyperException as exc:
        print_error(exc.format_message())
        return exc.exit_code
    except SettingsError as exc:
        print_error(str(exc))
        return 2
    except (CommandError, EngineError) as exc:
        print_error(str(exc))
        return 1
    return code or 0


def _show_version() -> None:
    out.print(f"qwen-edit {VERSION}", highlight=False)
    raise typer.Exit
