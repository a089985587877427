"""Puts a model through held-out edits, by the same way that a request takes, and counts."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from demo_model.families import Edit, draw_family
from demo_model.instructions import Task
from demo_model.metrics import Verdict, judge
from demo_model.scenes import Pixels, draw
from pipelines.api.params import EditParams, LoraRef
from pipelines.api.sizes import SizeBounds
from pipelines.engine.pipeline import EditPipeline

# Far from the seeds of training: these scenes were never seen.
HELD_OUT_SEED = 10_000_000
# How far what should not change may be from the input, as a mean of absolute errors, 0 to 1.
MAX_UNCHANGED_ERROR = 0.08


@dataclass(slots=True)
class Score:
    """How the edits of one task went."""

    verdicts: list[Verdict] = field(default_factory=list)

    @property
    def right(self) -> float:
        """The share of edits that did what was asked."""
        return float(np.mean([verdict.is_right for verdict in self.verdicts]))

    @property
    def unchanged_error(self) -> float:
        """The mean absolute error of what should not change, 0 to 1."""
        return float(np.mean([verdict.unchanged_error for verdict in self.verdicts]))

    @property
    def left_alone(self) -> float:
        """The share of edits that left what should not change within `MAX_UNCHANGED_ERROR`."""
        errors = [verdict.unchanged_error for verdict in self.verdicts]
        return float(np.mean([error <= MAX_UNCHANGED_ERROR for error in errors]))


def held_out_edits(per_task: int, seed: int = HELD_OUT_SEED) -> Iterator[Edit]:
    """`per_task` edits of every task, each from a scene of its own."""
    rng = np.random.default_rng(seed)
    left = dict.fromkeys(Task, per_task)
    while any(left.values()):
        edits = draw_family(rng)
        for task in Task:
            # a request must say something
            kin = [edit for edit in edits if edit.task is task and edit.prompt.strip()]
            if left[task] and kin:
                left[task] -= 1
                yield kin[int(rng.integers(len(kin)))]


def try_edits(
    pipeline: EditPipeline,
    edits: Sequence[Edit],
    size: tuple[int, int],
    on_edit: Callable[[Edit, Pixels, Verdict], None] = lambda edit, output, verdict: None,
) -> dict[Task, Score]:
    """Make the edits at `size` with the model's own steps and CFG, and judge them."""
    scores: dict[Task, Score] = defaultdict(Score)
    for number, edit in enumerate(edits):
        output = make_edit(pipeline, edit, size, seed=number)
        verdict = judge(edit, output)
        scores[edit.task].verdicts.append(verdict)
        on_edit(edit, output, verdict)
    return dict(scores)


def make_edit(
    pipeline: EditPipeline,
    edit: Edit,
    size: tuple[int, int],
    seed: int,
    stack: Sequence[tuple[Path, float]] = (),
) -> Pixels:
    """The model's image for the edit, with LoRA files at scales; values from 0 to 255."""
    params = EditParams(
        prompt=edit.prompt,
        size=size,
        seed=seed,
        bounds=SizeBounds(min_side=min(size)),
        loras=tuple(LoraRef(str(file), scale) for file, scale in stack),
    )
    result = pipeline.edit(params, [draw(scene, *size) for scene in edit.sources])
    return np.asarray(result.images[0], np.float32)
