"""`qwen-edit edit`, over a running server."""

import io
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from pipelines.api.errors import InvalidParameter
from pipelines.api.params import MAX_REFERENCES, SEED_RANGE
from pipelines.api.sampling import NO_TERMINAL, Sampling
from pipelines.api.sizes import SizeBounds
from server.cli.client import Client, EditOptions, parse_lora
from server.cli.console import DEFAULT_SERVER, Key, Server, out
from server.cli.contact_sheet import (
    Caption,
    Cell,
    draw_comparison,
    draw_sheet,
    input_cells,
    open_image,
)
from server.cli.grid import RANGES, Axis, lay_out, lora_name, parse_axes
from server.cli.runs import Finished, run_edits
from server.cli.saving import Places, format_of, report, saving

RANDOM_SEED = -1

Images = Annotated[
    list[Path], typer.Argument(help="One to three images", exists=True, dir_okay=False)
]
Output = Annotated[Path, typer.Option("-o", "--output", help="Where to save", dir_okay=False)]
Sigmas = Annotated[
    str | None, typer.Option(help="Instead of steps and shift, such as 1,0.9,0.75,0.5")
]
Grid = Annotated[
    list[str] | None,
    typer.Option(help="Save a grid: scale=0,0.5,1, NAME=0:1:0.25, seed=…, steps=…, cfg=…"),
]
KeepCells = Annotated[
    Path | None, typer.Option(help="Folder for the images of the grid", file_okay=False)
]
Compare = Annotated[
    Path | None, typer.Option(help="Also save a sheet with before and after", dir_okay=False)
]


def edit(
    images: Images,
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="What to change")],
    lora: Annotated[list[str] | None, typer.Option(help="NAME or URL, with :SCALE")] = None,
    preset: Annotated[str | None, typer.Option(help="A preset of the server")] = None,
    size: Annotated[str | None, typer.Option(help=f"WIDTH*HEIGHT, each {SizeBounds()}")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same image")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps")] = None,
    cfg: Annotated[float | None, typer.Option(help="True CFG scale")] = None,
    shift: Annotated[float | None, typer.Option(help="Static shift, 3 for Lightning")] = None,
    sigmas: Sigmas = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid")] = None,
    output: Output = Path("out.png"),
    compare: Compare = None,
    grid: Grid = None,
    keep_cells: KeepCells = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite existing files")] = False,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Edit images on a running server.

    An existing file is kept, and the image saved under a free name such as out-2.png. With --grid
    the output is a sheet of edits in which one value varies; a second --grid makes columns.
    """
    options = EditOptions(
        prompt=prompt,
        images=tuple(images),
        loras=tuple(parse_lora(text) for text in lora or ()),
        size=size,
        seed=None if seed == RANDOM_SEED else seed,
        num_inference_steps=steps,
        true_cfg_scale=cfg,
        negative_prompt=negative_prompt,
        output_format=format_of(output, "--output"),
        sampling=_sampling(shift, sigmas),
        preset=preset,
    )
    _check_values(options)
    axes = parse_axes(grid or (), options)
    _check_combination(axes, compare, keep_cells)
    rows = lay_out(axes, options) if axes else []
    places = Places(output, compare, keep_cells, force)
    places.check(options.images, list(itertools.chain.from_iterable(rows)))
    with Client(server, key) as client:
        if axes:
            _edit_grid(client, options, axes, places)
        else:
            _edit_one(client, options, places)


def _edit_one(client: Client, options: EditOptions, places: Places) -> None:
    saved = places.output

    def keep(_: int, one: Finished) -> None:
        nonlocal saved
        saved = places.save(one.image, places.output)

    [finished] = run_edits(client, [options], keep)
    result = finished.job["outputs"][0]
    facts = f"{result['width']}×{result['height']}  seed {result['seed']}"
    if used := finished.job.get("sampling"):
        facts += f"  {used['steps']} steps  CFG {used['true_cfg_scale']:g}"
    report(saved, places.output, facts)
    seconds = finished.job["seconds"].items()
    out.print(
        f"[dim]{'  '.join(f'{stage} {value:.2f} s' for stage, value in seconds)}[/dim]",
        soft_wrap=True,
    )
    for warning in finished.job.get("warnings", ()):
        out.print(f"[yellow]{escape(warning)}[/yellow]", soft_wrap=True)
    if places.compare is not None:
        caption = _caption(client, options, finished, ())
        with saving(places.compare):
            inputs = [open_image(path) for path in options.images]
            sheet = draw_comparison(inputs, open_image(io.BytesIO(finished.image)), caption)
        places.save_sheet(sheet, places.compare)


def _edit_grid(client: Client, options: EditOptions, axes: Sequence[Axis], places: Places) -> None:
    if options.seed is None:
        # one seed for all cells: they differ in nothing but the axes
        options = replace(options, seed=secrets.randbelow(SEED_RANGE[1] + 1))
    rows = lay_out(axes, options)
    cells = list(itertools.chain.from_iterable(rows))
    kept: list[bool] = []

    def keep(index: int, one: Finished) -> None:
        if places.cells is not None:
            wanted = places.cell(index + 1, cells[index])
            kept.append(places.save(one.image, wanted) == wanted)

    try:
        finished = run_edits(client, [cell.options for cell in cells], keep)
    finally:
        if places.cells is not None:
            _report_cells(kept, len(cells), places.cells)
    caption = _caption(client, options, finished[0], axes)
    with saving(places.output):
        images = iter(open_image(io.BytesIO(one.image)) for one in finished)
        inputs = input_cells([open_image(path) for path in options.images], "Input")
        drawn = [[Cell(next(images), cell.label) for cell in row] for row in rows]
        sheet = draw_sheet([inputs, *drawn], caption)
    places.save_sheet(sheet, places.output)


def _report_cells(kept: Sequence[bool], total: int, folder: Path) -> None:
    """Print how many cells were saved; `kept` has False for one under another name."""
    message = f"{len(kept)} of {total} images in {folder}"
    if renamed := kept.count(False):
        message += f", {renamed} under a new name; --force overwrites existing files"
    out.print(escape(message), soft_wrap=True, highlight=False)


def _caption(
    client: Client, options: EditOptions, finished: Finished, axes: Sequence[Axis]
) -> Caption:
    """How the images were made, without the values that vary."""
    now = client.capabilities()
    result = finished.job["outputs"][0]
    varied = {axis.name for axis in axes if axis.lora is None}
    scaled = {axis.lora for axis in axes}
    cfg = finished.job["sampling"]["true_cfg_scale"]
    facts = [
        ("model", now["model"]["name"]),
        ("seed", str(result["seed"])),
        ("steps", str(finished.job["steps"])),
        ("cfg", f"{cfg:g}"),
        ("size", f"{result['width']} x {result['height']}"),
    ]
    for index, (reference, scale) in enumerate(options.loras):
        shown = lora_name(reference) + ("" if index in scaled else f" at {scale:g}")
        facts.append(("LoRA", shown))
    if options.negative_prompt:
        facts.append(("not", options.negative_prompt))
    shown_facts = tuple((name, value) for name, value in facts if name not in varied)
    return Caption(options.prompt, shown_facts)


def _sampling(shift: float | None, sigmas: str | None) -> Sampling:
    """Read the options of the schedule; a static shift goes without a terminal."""
    try:
        starts = tuple(map(float, sigmas.split(","))) if sigmas else None
    except ValueError as exc:
        message = f"must be numbers with commas between them, got {sigmas!r}"
        raise typer.BadParameter(message, param_hint="--sigmas") from exc
    try:
        terminal = None if shift is None else NO_TERMINAL
        return Sampling(shift=shift, shift_terminal=terminal, sigmas=starts)
    except InvalidParameter as exc:
        message = str(exc).removeprefix(exc.field).lstrip()
        raise typer.BadParameter(message, param_hint=f"--{exc.field}") from exc


def _check_values(options: EditOptions) -> None:
    """Raise typer.BadParameter for what no server would accept."""
    if not options.prompt.strip():
        raise typer.BadParameter("must not be empty", param_hint="--prompt")
    if len(options.images) > MAX_REFERENCES:
        message = f"an edit takes up to {MAX_REFERENCES} images, got {len(options.images)}"
        raise typer.BadParameter(message, param_hint="IMAGES")
    values = {
        "seed": options.seed,
        "steps": options.num_inference_steps,
        "cfg": options.true_cfg_scale,
    }
    for name, value in values.items():
        low, high = RANGES[name]
        if value is not None and not low <= value <= high:
            message = f"must be between {low:g} and {high:.10g}, got {value:g}"
            raise typer.BadParameter(message, param_hint=f"--{name}")


def _check_combination(axes: Sequence[Axis], compare: Path | None, keep_cells: Path | None) -> None:
    """Raise typer.BadParameter for options that do not go together."""
    if axes and compare is not None:
        message = f"{compare} goes without --grid: the sheet of a grid shows the inputs"
        raise typer.BadParameter(message, param_hint="--compare")
    if keep_cells is not None and not axes:
        message = f"{keep_cells} is for the images of a grid: add --grid"
        raise typer.BadParameter(message, param_hint="--keep-cells")
