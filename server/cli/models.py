"""`qwen-edit models`: the models under the weights folder."""

import itertools
import shutil
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from pipelines.api.errors import ModelNotFound, ModelUnusable
from pipelines.api.model_spec import DEMO_NAME
from pipelines.files.catalog import Catalog
from pipelines.files.model_index import read_family
from server.cli.console import WeightsDir, Yes, confirm, out, shown_size
from server.cli.errors import CommandError
from server.settings import read_settings

app = typer.Typer(help="List the models on this machine, or remove one.")


@app.callback(invoke_without_command=True)
def list_models(context: typer.Context, weights_dir: WeightsDir = None) -> None:
    """List the models of the weights folder; * marks the one that `qwen-edit serve` takes."""
    if context.invoked_subcommand is not None:
        return
    settings = read_settings(weights_dir=weights_dir)
    catalog = Catalog(settings.weights_dir)
    found = _models(catalog, settings.weights_dir)
    try:
        choice = catalog.resolve_model(settings.model)
    except ModelNotFound as exc:
        raise CommandError(str(exc)) from exc
    if choice.is_demo:
        found[DEMO_NAME] = choice.path
    table = Table("", "name", Column("size", justify="right"), "family", box=None, pad_edge=False)
    for name, path in found.items():
        mark = "*" if path.absolute() == choice.path else ""
        table.add_row(mark, escape(name), shown_size(_size(path)), escape(_family(path)))
    out.print(table)
    out.print(escape(f"qwen-edit serve takes {choice.path}: {choice.why}"), soft_wrap=True)


@app.command()
def remove(
    name: Annotated[str, typer.Argument(help="As `qwen-edit models` lists it")],
    weights_dir: WeightsDir = None,
    yes: Yes = False,
) -> None:
    """Remove a model from the weights folder. A model that a server uses is kept."""
    settings = read_settings(weights_dir=weights_dir)
    found = _models(Catalog(settings.weights_dir), settings.weights_dir)
    if name not in found:
        listed = ", ".join(found) or "none"
        raise CommandError(f"no model {name!r} can be removed. The weights folder has: {listed}.")
    path = found[name]
    if pid := _user_of(path):
        raise CommandError(f"the process {pid} uses {path}: stop that server first")
    confirm(f"Remove {path} ({shown_size(_size(path))})?", yes=yes)
    if path.is_symlink():
        path.unlink()
    else:
        shutil.rmtree(path)
    if "/" in name and not any(path.parent.iterdir()):
        path.parent.rmdir()
    out.print(escape(f"removed {path}"), soft_wrap=True, highlight=False)


def _models(catalog: Catalog, weights_dir: Path) -> dict[str, Path]:
    """The models that were put or pulled into the weights folder, by name."""
    folder = weights_dir / "models"
    return {str(path.relative_to(folder)): path for path in catalog.models()}


def _family(model: Path) -> str:
    try:
        return read_family(model).title
    except ModelUnusable:
        return "unknown"


def _size(model: Path) -> int:
    return sum(path.stat().st_size for path in model.rglob("*") if path.is_file())


def _user_of(model: Path) -> int | None:
    """The id of a process on this machine that was started with `--model` and this folder."""
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = file.read_text(errors="replace").split("\0")
        except OSError:  # the process has ended
            continue
        named = [value for word, value in itertools.pairwise(words) if word == "--model"]
        if any(Path(value).resolve() == model.resolve() for value in named if "/" in value):
            return int(file.parent.name)
    return None
