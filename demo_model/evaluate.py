"""Held-out edits through the engine, as a request takes them, and their scores."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from demo_model.edits import Edit, draw_edits
from demo_model.instructions import Task
from demo_model.metrics import EditMetrics, measure
from demo_model.scenes import Pixels, draw
from pipelines.api.params import EditParams, LoraRef
from pipelines.api.sizes import SizeBounds
from pipelines.engine.pipeline import EditPipeline

# Far from the seeds of training, so the model has not seen these scenes.
HELD_OUT_SEED = 10_000_000
# The largest mean absolute error, 0 to 1, at which what should not change counts as unchanged.
MAX_UNCHANGED_ERROR = 0.08


@dataclass(slots=True)
class Score:
    """The metrics of all edits of one task."""

    edits: list[EditMetrics] = field(default_factory=list)

    @property
    def right(self) -> float:
        """The share of edits that did what was asked."""
        return float(np.mean([edit.is_right for edit in self.edits]))

    @property
    def unchanged_error(self) -> float:
        """The mean absolute error of what should not change, 0 to 1."""
        return float(np.mean([edit.unchanged_error for edit in self.edits]))

    @property
    def left_alone(self) -> float:
        """The share of edits whose `unchanged_error` is at most `MAX_UNCHANGED_ERROR`."""
        return float(np.mean([edit.unchanged_error <= MAX_UNCHANGED_ERROR for edit in self.edits]))


def held_out_edits(per_task: int, seed: int = HELD_OUT_SEED) -> Iterator[Edit]:
    """`per_task` edits of every task, each from a scene of its own."""
    rng = np.random.default_rng(seed)
    left = dict.fromkeys(Task, per_task)
    while any(left.values()):
        edits = draw_edits(rng)
        for task in Task:
            # a request with an empty prompt is refused
            candidates = [edit for edit in edits if edit.task is task and edit.prompt.strip()]
            if left[task] and candidates:
                left[task] -= 1
                yield candidates[int(rng.integers(len(candidates)))]


def score_edits(
    pipeline: EditPipeline, edits: Sequence[Edit], size: tuple[int, int]
) -> dict[Task, Score]:
    """Make the edits at `size` with the model's own steps and CFG, and score them by task."""
    scores: dict[Task, Score] = defaultdict(Score)
    for number, edit in enumerate(edits):
        output = make_edit(pipeline, edit, size, seed=number)
        scores[edit.task].edits.append(measure(edit, output))
    return dict(scores)


def make_edit(
    pipeline: EditPipeline,
    edit: Edit,
    size: tuple[int, int],
    seed: int,
    stack: Sequence[tuple[Path, float]] = (),
) -> Pixels:
    """The model's output for the edit with LoRA files at scales, (height, width, 3), 0 to 255."""
    params = EditParams(
        prompt=edit.prompt,
        size=size,
        seed=seed,
        bounds=SizeBounds(min_side=min(size)),
        loras=tuple(LoraRef(str(file), scale) for file, scale in stack),
    )
    result = pipeline.edit(params, [draw(scene, *size) for scene in edit.sources])
    return np.asarray(result.images[0], np.float32)
