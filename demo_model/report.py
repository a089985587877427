"""The full evaluation of a demo model and its LoRAs, written into its model card."""

import logging
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from demo_model.edits import Edit
from demo_model.evaluate import (
    MAX_UNCHANGED_ERROR,
    Score,
    held_out_edits,
    make_edit,
    score_edits,
)
from demo_model.instructions import Task
from demo_model.replace_folder import CARD
from demo_model.styles import STYLES, paint_styled
from pipelines.engine.pipeline import EditPipeline
from pipelines.files.architecture import read_linears
from pipelines.files.lora_format.file import plan_lora

logger = logging.getLogger(__name__)

# Sizes with the share of edits made at each: the largest images take eight times as long.
SIZES = {(256, 256): 1.0, (384, 320): 0.5, (512, 512): 0.34}
SCALES = (0.0, 0.5, 1.0)
STYLE_SIZE = (256, 256)
STYLE_EDITS = 12
START, END = "<!-- evaluation -->", "<!-- /evaluation -->"


def write_card(
    model: Path,
    loras: Path,
    *,
    per_task: int,
    sizes: Mapping[tuple[int, int], float] = SIZES,
    style_edits: int = STYLE_EDITS,
) -> None:
    """Evaluate the model in `model` and its LoRAs; write the figures between the card's marks.

    `sizes` are (width, height), each with the share of `per_task` edits made at it. A model without
    a card gets one, and a card without marks gets them at its end. Raises ModelUnusable and
    LoraInvalid before the first edit.
    """
    pipeline = EditPipeline.load(model, device="cpu", dtype=torch.float32)
    # An evaluation takes an hour: an unwritable card or a wrong LoRA must end it at the start.
    head, tail = _open_card(model / CARD)
    for style in STYLES:
        plan_lora(_lora_file(loras, style), read_linears(model), style)
    parts = [
        _task_table(pipeline, per_task, sizes),
        _style_table(pipeline, loras, style_edits),
    ]
    figures = "\n\n".join(parts)
    logger.info("%s", figures)
    (model / CARD).write_text(f"{head}{START}\n{figures}\n{END}{tail}")


def _open_card(card: Path) -> tuple[str, str]:
    """The card before and after the figures. A card without marks is given them."""
    text = card.read_text() if card.exists() else f"# {card.absolute().parent.name}\n"
    if START not in text:
        text = f"{text.rstrip()}\n\n{START}\n{END}\n"
    card.write_text(text)
    head, _, rest = text.partition(START)
    return head, rest.partition(END)[2]


def _task_table(
    pipeline: EditPipeline, per_task: int, sizes: Mapping[tuple[int, int], float]
) -> str:
    within = f"rest within {MAX_UNCHANGED_ERROR:g}"
    lines = [
        f"| task | size | edits | right | error of the rest | {within} |",
        "|---|---|---|---|---|---|",
    ]
    for size, share in sizes.items():
        edits = list(held_out_edits(max(1, round(per_task * share))))
        started = time.monotonic()
        scores = score_edits(pipeline, edits, size)
        seconds = (time.monotonic() - started) / len(edits)
        lines += [_task_row(task, size, scores[task]) for task in Task]
        logger.info("%d×%d: %.2f s per edit", *size, seconds)
    return "\n".join(lines)


def _task_row(task: Task, size: tuple[int, int], score: Score) -> str:
    return (
        f"| {task} | {size[0]}×{size[1]} | {len(score.edits)} | {score.right:.0%} "
        f"| {score.unchanged_error:.3f} | {score.left_alone:.0%} |"
    )


def _style_table(pipeline: EditPipeline, loras: Path, style_edits: int) -> str:
    edits = [edit for edit in held_out_edits(style_edits) if edit.task is Task.RECOLOR]
    head = " | ".join(f"scale {scale:g}" for scale in SCALES)
    lines = [f"| LoRA | {head} |", "|---|" + "---|" * len(SCALES)]
    for styles in [*((style,) for style in STYLES), STYLES[:2]]:
        files = [_lora_file(loras, style) for style in styles]
        cells = (
            f"{style_distance(pipeline, edits, styles, [(file, scale) for file in files]):.3f}"
            for scale in SCALES
        )
        lines.append(f"| {' and '.join(styles)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _lora_file(folder: Path, style: str) -> Path:
    return folder / f"demo-{style}.safetensors"


def style_distance(
    pipeline: EditPipeline,
    edits: Sequence[Edit],
    styles: Sequence[str],
    stack: Sequence[tuple[Path, float]],
) -> float:
    """The mean absolute error, 0 to 1, of edits with LoRAs against the drawn styles."""
    errors = []
    for number, edit in enumerate(edits):
        drawn = paint_styled(edit.target, *STYLE_SIZE, *styles)
        made = make_edit(pipeline, edit, STYLE_SIZE, number, stack)
        errors.append(float(np.abs(made - drawn).mean() / 255))
    return float(np.mean(errors))
