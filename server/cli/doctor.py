"""`qwen-edit doctor`: would a server start here, with which model, and what to do next."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pipelines.api.load_options import Dtype, Offload
from server.cli import checks, model_checks
from server.cli.advice import Options, Serve, command, together
from server.cli.checks import SET_KEYS, Check, State
from server.cli.console import out
from server.cli.machine import Host, TorchReport, ask_torch, read_host
from server.settings import Settings, SettingsError, read_settings
from server.version import VERSION

COLORS = {State.OK: "green", State.NOTE: "yellow", State.STOP: "red"}


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for machines")] = False,
    host: Annotated[str | None, typer.Option(help="As for serve")] = None,
    port: Annotated[int | None, typer.Option(help="As for serve")] = None,
    model: Annotated[str | None, typer.Option(help="As for serve")] = None,
    weights_dir: Annotated[Path | None, typer.Option(help="As for serve")] = None,
    data_dir: Annotated[Path | None, typer.Option(help="As for serve")] = None,
    device: Annotated[str | None, typer.Option(help="As for serve")] = None,
    dtype: Annotated[Dtype | None, typer.Option(help="As for serve")] = None,
    offload: Annotated[Offload | None, typer.Option(help="As for serve")] = None,
    no_auth: Annotated[bool | None, typer.Option("--no-auth", help="As for serve")] = None,
) -> None:
    """Say whether a server would start here, what fits, and what to do next; changes nothing.

    Exit code 0 when `qwen-edit serve` with the same options would start, 1 when something stops it.
    """
    options = dict(locals())
    del options["as_json"]
    flags = {name: value for name, value in options.items() if value is not None}
    torch, machine = ask_torch(), read_host()
    found = examine(flags, torch, machine)
    is_fine = all(check.state is not State.STOP for check in found)
    steps = next_steps(found, flags)
    if as_json:
        report = {
            "version": VERSION,
            "ok": is_fine,
            "checks": [_as_json(check, flags) for check in found],
            "next": steps,
            "host": asdict(machine),
            "torch": asdict(torch),
        }
        typer.echo(json.dumps(report, indent=2))
    else:
        _show(found, steps, is_fine=is_fine)
    raise typer.Exit(0 if is_fine else 1)


def examine(flags: dict[str, Any], torch: TorchReport, machine: Host) -> list[Check]:
    """All checks, for the settings that `qwen-edit serve` would have with these flags."""
    found = [checks.check_libraries(torch), checks.check_memory(machine)]
    try:
        settings = read_settings(**flags)
    except SettingsError as exc:
        do = SET_KEYS if "can be reached by others" in str(exc) else None
        found.append(Check("settings", State.STOP, str(exc), do))
        # the rest is looked at with what the flags say
        settings = Settings.model_construct(**flags)
    return [
        *found,
        *checks.check_devices(settings, torch, machine),
        *model_checks.check_models(settings),
        *model_checks.check_fit(settings, torch, machine),
        model_checks.check_loras(settings),
        checks.check_data(settings),
        checks.check_port(settings),
        checks.check_keys(settings),
        checks.check_page(),
    ]


def next_steps(found: list[Check], flags: Options) -> list[str]:
    """The commands that come next: what mends the stops, else the start and what may be added."""
    stops = [check.do for check in found if check.state is State.STOP and check.do]
    if any(check.state is State.STOP for check in found):
        mended = together(do for do in stops if isinstance(do, Serve))
        steps = [command(do, flags) for do in stops if not isinstance(do, Serve)]
        steps.append(command(mended, flags, verb="doctor"))
        if mended != Serve():
            steps.append(command(mended, flags))
    else:
        more = [check.do for check in found if check.do]
        steps = [command(do, flags) for do in (Serve(), *more)]
    return list(dict.fromkeys(steps))


def _as_json(check: Check, flags: Options) -> dict[str, str | None]:
    return {
        "topic": check.topic,
        "state": check.state,
        "text": check.text,
        "do": None if check.do is None else command(check.do, flags),
    }


def _show(found: list[Check], steps: list[str], *, is_fine: bool) -> None:
    table = Table.grid(padding=(0, 2))
    seen = ""
    for check in found:
        topic = "" if check.topic == seen else check.topic
        seen = check.topic
        state = Text(check.state.value, style=COLORS[check.state])
        table.add_row(state, Text(topic, style="bold"), Text(check.text))
    out.print(table)
    out.print()
    says_demo = any(check.topic == "model" and check.state is State.NOTE for check in found)
    verdict = "A server would start here"
    if says_demo:
        verdict += ", with the demo model"
    if not is_fine:
        verdict = "A server would not start here, or could not work"
    out.print(Text(f"{verdict}. Next:", style="bold"))
    for step in steps:
        out.print(Text(f"  {step}"), soft_wrap=True)
