"""`qwen-edit edit` and `qwen-edit jobs`, over a running server."""

import io
import itertools
import secrets
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Column, Table

from pipelines.api.params import SEED_RANGE
from pipelines.api.sizes import SizeBounds
from server.cli.client import Client, EditOptions, parse_lora
from server.cli.console import DEFAULT_SERVER, Key, Server, errors_said, out
from server.cli.contact_sheet import (
    Caption,
    Cell,
    draw_comparison,
    draw_sheet,
    input_cells,
    open_image,
)
from server.cli.grid import Axis, lay_out, lora_name, parse_axes
from server.cli.runs import Finished, run_edits
from server.cli.saving import (
    cell_path,
    check_apart,
    check_place,
    format_of,
    make_folder,
    save_image,
    save_sheet,
    saving,
)

JOB_COLUMNS = "status", "contract", "step", "seconds", "prompt"

Images = Annotated[
    list[Path], typer.Argument(help="One to three images", exists=True, dir_okay=False)
]
Output = Annotated[
    Path, typer.Option("-o", "--output", help="Where to save", dir_okay=False, writable=True)
]
Compare = Annotated[
    Path | None,
    typer.Option(
        help="Also save a sheet with before and after there", dir_okay=False, writable=True
    ),
]


def edit(
    images: Images,
    prompt: Annotated[str, typer.Option("-p", "--prompt", help="What to change")],
    lora: Annotated[list[str] | None, typer.Option(help="NAME or URL, with :SCALE")] = None,
    size: Annotated[str | None, typer.Option(help=f"WIDTH*HEIGHT, each {SizeBounds()}")] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same image")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps")] = None,
    cfg: Annotated[float | None, typer.Option(help="True CFG scale")] = None,
    negative_prompt: Annotated[str | None, typer.Option(help="What to avoid")] = None,
    output: Output = Path("out.png"),
    compare: Compare = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(help="Save a grid: scale=0,0.5,1, NAME=0:1:0.25, seed=…, steps=…, cfg=…"),
    ] = None,
    keep_cells: Annotated[
        Path | None, typer.Option(help="Folder for the images of the grid", file_okay=False)
    ] = None,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """Edit images on a running server.

    With --grid, the output is a sheet of edits over which something varies; a second --grid makes
    rows of the first and columns of the second.
    """
    options = EditOptions(
        prompt=prompt,
        images=tuple(images),
        loras=tuple(parse_lora(text) for text in lora or ()),
        size=size,
        seed=seed,
        num_inference_steps=steps,
        true_cfg_scale=cfg,
        negative_prompt=negative_prompt,
        output_format=format_of(output, "--output"),
    )
    axes = parse_axes(grid or (), options)
    _check_places(options, axes, output, compare, keep_cells)
    with errors_said(), Client(server, key) as client:
        if axes:
            _edit_grid(client, options, axes, output, keep_cells)
        else:
            _edit_one(client, options, output, compare)


def jobs(
    limit: Annotated[int, typer.Option(min=1, max=100, help="How many, newest first")] = 20,
    server: Server = DEFAULT_SERVER,
    key: Key = None,
) -> None:
    """List the jobs of a running server."""
    with errors_said(), Client(server, key) as client:
        page = client.jobs(limit)
    # a cut id is of no use
    table = Table(Column("id", no_wrap=True, overflow="ignore"), *JOB_COLUMNS, box=None)
    for job in page["items"]:
        step = f"{job['step']}/{job['steps']}" if job["steps"] else ""
        if job["position"] is not None:
            step = f"{job['position']} ahead"
        # as the page says it: without the time in which it waited
        has_run = job["started_at"] is not None and job["finished_at"] is not None
        seconds = f"{job['finished_at'] - job['started_at']:.1f}" if has_run else ""
        prompt = job["prompt"] if len(job["prompt"]) <= 40 else job["prompt"][:39] + "…"
        cells = (job["status"], job["contract"], step, seconds, escape(prompt))
        table.add_row(job["id"], *cells)
    out.print(table)
    out.print(f"[dim]{len(page['items'])} of {page['total']}[/dim]")


def _edit_one(client: Client, options: EditOptions, output: Path, compare: Path | None) -> None:
    [finished] = run_edits(client, [options], lambda _, one: save_image(one.image, output))
    job = finished.job
    result = job["outputs"][0]
    seconds = "  ".join(f"{stage} {value:.2f} s" for stage, value in job["seconds"].items())
    out.print(f"{escape(str(output))}  {result['width']}×{result['height']}  seed {result['seed']}")
    out.print(f"[dim]{seconds}[/dim]", soft_wrap=True)
    if compare is not None:
        caption = _caption(client, options, finished, ())
        with saving(compare):
            inputs = [open_image(path) for path in options.images]
            sheet = draw_comparison(inputs, open_image(io.BytesIO(finished.image)), caption)
        save_sheet(sheet, compare)


def _edit_grid(
    client: Client,
    options: EditOptions,
    axes: Sequence[Axis],
    output: Path,
    keep_cells: Path | None,
) -> None:
    if options.seed is None:
        # one for all cells: they differ by what the axes say, and by nothing else
        options = replace(options, seed=secrets.randbelow(SEED_RANGE[1] + 1))
    rows = lay_out(axes, options)
    cells = [cell for row in rows for cell in row]
    kept = 0

    def keep(index: int, one: Finished) -> None:
        nonlocal kept
        if keep_cells is not None:
            save_image(one.image, cell_path(keep_cells, index + 1, cells[index]))
            kept += 1

    try:
        finished = run_edits(client, [cell.options for cell in cells], keep)
    finally:
        if keep_cells is not None:
            out.print(escape(f"{kept} of {len(cells)} images in {keep_cells}"), soft_wrap=True)
    caption = _caption(client, options, finished[0], axes)
    with saving(output):
        images = iter(open_image(io.BytesIO(one.image)) for one in finished)
        inputs = input_cells([open_image(path) for path in options.images], "Input")
        drawn = [[Cell(next(images), cell.label) for cell in row] for row in rows]
        sheet = draw_sheet([inputs, *drawn], caption)
    save_sheet(sheet, output)


def _caption(
    client: Client, options: EditOptions, finished: Finished, axes: Sequence[Axis]
) -> Caption:
    """What made the images, without what varies over them."""
    now = client.capabilities()
    result = finished.job["outputs"][0]
    varied = {axis.name for axis in axes if axis.lora is None}
    scaled = {axis.lora for axis in axes}
    cfg = options.true_cfg_scale
    facts = [
        ("model", now["model"]["name"]),
        ("seed", str(result["seed"])),
        ("steps", str(finished.job["steps"])),
        ("cfg", f"{now['profile']['true_cfg_scale'] if cfg is None else cfg:g}"),
        ("size", f"{result['width']} x {result['height']}"),
    ]
    for index, (reference, scale) in enumerate(options.loras):
        shown = lora_name(reference) + ("" if index in scaled else f" at {scale:g}")
        facts.append(("LoRA", shown))
    if options.negative_prompt:
        facts.append(("not", options.negative_prompt))
    shown_facts = tuple((name, value) for name, value in facts if name not in varied)
    return Caption(options.prompt, shown_facts)


def _check_places(
    options: EditOptions,
    axes: Sequence[Axis],
    output: Path,
    compare: Path | None,
    keep_cells: Path | None,
) -> None:
    """Make the folder of kept images.

    Raises typer.BadParameter for options that do not go together, for a place where nothing could
    be saved, which should not turn out only after everything is computed, and for one where a
    image of the user's or another of the edit's would be overwritten.
    """
    taken = [(image, "image to edit") for image in options.images]
    check_place(output, "--output")
    check_apart(output, "--output", taken)
    taken.append((output, "output"))
    if compare is not None:
        check_place(compare, "--compare")
        check_apart(compare, "--compare", taken)
        if axes:
            message = f"{compare} goes without --grid: the sheet of a grid shows the images before"
            raise typer.BadParameter(message, param_hint="--compare")
    if keep_cells is not None:
        if not axes:
            message = f"{keep_cells} is for the images of a grid: add --grid"
            raise typer.BadParameter(message, param_hint="--keep-cells")
        make_folder(keep_cells, "--keep-cells")
        cells = itertools.chain.from_iterable(lay_out(axes, options))
        for number, cell in enumerate(cells, start=1):
            check_apart(cell_path(keep_cells, number, cell), "--keep-cells", taken)
