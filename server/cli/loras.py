"""`qwen-edit loras`: the LoRAs of a running server, and what is in a LoRA file."""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape
from rich.table import Column, Table

from pipelines.api.families import FAMILIES, Linears
from pipelines.api.profiles import LoraProfile
from pipelines.files.architecture import read_linears
from pipelines.files.catalog import Catalog
from pipelines.files.lora_format.report import LoraReport, inspect_lora
from server.cli.client import Client
from server.cli.console import (
    DEFAULT_SERVER,
    Key,
    Server,
    WeightsDir,
    Yes,
    confirm,
    out,
    shown_size,
)
from server.settings import read_settings

app = typer.Typer(help="List the LoRAs of a running server, remove one, or inspect a file.")


@app.callback(invoke_without_command=True)
def list_loras(context: typer.Context, server: Server = DEFAULT_SERVER, key: Key = None) -> None:
    """List the LoRAs of a running server."""
    if context.invoked_subcommand is not None:
        return
    with Client(server, key) as client:
        found = client.loras()["items"]
    if not found:
        out.print("No LoRAs: put .safetensors files into the server's weights/loras folder.")
        return
    size, rank = Column("size", justify="right"), Column("rank", justify="right")
    table = Table("name", size, "kind", rank, "trigger words", box=None, pad_edge=False)
    for lora in found:
        table.add_row(
            escape(lora["name"]),
            shown_size(lora["size_bytes"]),
            lora["kind"] or "",
            ", ".join(lora["ranks"]),
            escape(", ".join(lora["trigger_words"])),
        )
    out.print(table)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="As `qwen-edit loras` lists it")],
    yes: Yes = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Remove a LoRA file from a running server."""
    with Client(server, key) as client:
        confirm(f"Remove the LoRA {name} from {server}?", yes=yes)
        client.delete_lora(name)
    out.print(escape(f"removed {name}"), soft_wrap=True, highlight=False)


@app.command()
def inspect(
    file: Annotated[Path, typer.Argument(help="A .safetensors file", exists=True, dir_okay=False)],
    model: Annotated[str | None, typer.Option(help="Model to check it against")] = None,
    weights_dir: WeightsDir = None,
) -> None:
    """Describe a LoRA file and check whether it fits; exit code 1 when it does not.

    Needs no server. Without --model the file is checked against the first model found, else against
    Qwen-Image-Edit-Plus and then the demo model.
    """
    choices = _linears_of(model, read_settings(weights_dir=weights_dir).weights_dir)
    reports = {name: inspect_lora(file, linears, file.name) for name, linears in choices}
    model_name = next((name for name, report in reports.items() if report.fits), choices[0][0])
    report = reports[model_name]
    for label, value in _report_rows(report):
        out.print(f"{label:<14}{escape(value)}", highlight=False, soft_wrap=True)
    fits = "yes" if report.fits else f"no: {report.problem}"
    out.print(f"{'fits ' + model_name}: {escape(fits)}", highlight=False, soft_wrap=True)
    raise typer.Exit(0 if report.fits else 1)


def _linears_of(model: str | None, weights_dir: Path) -> list[tuple[str, Linears]]:
    """The models that the file may be made for, each with its linear layers."""
    choice = Catalog(weights_dir).resolve_model(model)
    own = (choice.path.name, read_linears(choice.path))
    if choice.is_demo and model is None:
        return [*((family.title, family.all_linears({}, {})) for family in FAMILIES.values()), own]
    return [own]


def shown_profile(profile: LoraProfile | None) -> str | None:
    """A LoRA's profile in words."""
    if profile is None:
        return None
    return f"{profile.sampling}{', a guess by its name' if profile.is_guess else ''}"


def _report_rows(report: LoraReport) -> list[tuple[str, str]]:
    def counted(counts: Mapping[Any, int]) -> str:
        return ", ".join(f"{value} ({count})" for value, count in counts.items()) or "unknown"

    return [
        ("file", f"{report.name}, {report.size_bytes / 1e6:.1f} MB"),
        ("kind", report.kind),
        ("layout", report.layout),
        ("made for", report.base_model or report.family or "unknown"),
        ("layers", report.shown_layers),
        ("ranks", counted(report.ranks)),
        ("alphas", counted(report.alphas)),
        ("dtypes", counted(report.dtypes)),
        ("title", report.title or "none"),
        ("trigger words", ", ".join(report.trigger_words) or "none named"),
        ("scale", _shown_scale(report)),
        ("thumbnail", "yes" if report.has_thumbnail else "none"),
        ("sampling", shown_profile(report.profile) or "the model's"),
        *(("warning", warning) for warning in report.warnings),
    ]


def _shown_scale(report: LoraReport) -> str:
    """The suggested scale, and the maker's own words where they say more."""
    scale = None if report.suggested_scale is None else f"{report.suggested_scale:g}"
    return "; ".join(filter(None, (scale, report.usage_hint))) or "none suggested"
