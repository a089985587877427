"""`qwen-edit doctor`: would `serve` work here, with which model, and the commands to run next."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from pipelines.api.load_options import Dtype, Offload
from server.cli import checks, model_checks
from server.cli.checks import SET_KEYS, Check, Options, State, command
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
    """Check whether `serve` with the same options would work, and advise; change nothing.

    Exit code 0 when it would work, 1 when something stops it.
    """
    options = {name: value for name, value in locals().items() if value is not None}
    del options["as_json"]
    torch, machine = ask_torch(), read_host()
    found = examine(options, torch, machine)
    is_fine = all(check.state is not State.STOP for check in found)
    steps = next_steps(found, options)
    if as_json:
        report = {
            "version": VERSION,
            "ok": is_fine,
            "checks": [asdict(check) | {"do": _line(check.do, options)} for check in found],
            "next": steps,
            "host": asdict(machine),
            "torch": asdict(torch),
        }
        typer.echo(json.dumps(report, indent=2))
    else:
        _show(found, steps, is_fine=is_fine)
    raise typer.Exit(0 if is_fine else 1)


def examine(options: Mapping[str, Any], torch: TorchReport, machine: Host) -> list[Check]:
    """Run all checks on the settings that `qwen-edit serve` would have with these options."""
    found = []
    try:
        settings = read_settings(**options)
    except SettingsError as exc:
        do = SET_KEYS if "can be reached by others" in str(exc) else None
        found.append(Check("settings", State.STOP, str(exc), do))
        settings = Settings.model_construct(**options)  # unchecked, to check all else as well
    return [
        *found,
        checks.check_libraries(torch),
        checks.check_host(machine),
        *checks.check_devices(settings, torch, machine),
        *model_checks.check_models(settings),
        *model_checks.check_fit(settings, torch, machine),
        model_checks.check_loras(settings),
        checks.check_data(settings),
        checks.check_address(settings),
        checks.check_keys(settings),
        checks.check_page(),
    ]


def next_steps(found: list[Check], options: Options) -> list[str]:
    """Return the commands to run next: those that remove what stops, else `serve` and additions."""
    stops = [check.do for check in found if check.state is State.STOP]
    if not stops:
        more = [line for check in found if (line := _line(check.do, options))]
        return list(dict.fromkeys([command("serve", options), *more]))
    steps = [do for do in stops if isinstance(do, str)]
    changed = dict(options)
    for do in reversed(stops):  # of two changes to the same option, the first counts
        changed |= do if isinstance(do, Mapping) else {}
    steps.append(command("doctor", changed))
    if changed != options:
        steps.append(command("serve", changed))
    return list(dict.fromkeys(steps))


def _line(do: str | Options | None, options: Options) -> str | None:
    return command("serve", {**options, **do}) if isinstance(do, Mapping) else do


def _show(found: list[Check], steps: list[str], *, is_fine: bool) -> None:
    table = Table.grid(padding=(0, 2))
    for check in found:
        state = Text(check.state, style=COLORS[check.state])
        table.add_row(state, Text(check.topic, style="bold"), Text(check.text))
    out.print(table)
    if not is_fine:
        verdict = "A server would not start here, or would not work"
    elif any(check.topic == "model" and check.state is State.NOTE for check in found):
        verdict = "A server would start here, with the demo model"
    else:
        verdict = "A server would start here"
    out.print(Text(f"\n{verdict}. Next:", style="bold"))
    for step in steps:
        out.print(Text(f"  {step}"), soft_wrap=True)
