"""Puts a model through held-out edits, by the same way that a request takes, and counts."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.params import EditParams
from pipelines.pipeline import EditPipeline
from pipelines.sizes import SizeBounds
from pipelines.training.families import Edit, draw_family
from pipelines.training.instructions import Task
from pipelines.training.judge import Verdict, judge
from pipelines.training.scenes import Pixels, draw

# Far from the seeds of training: these scenes were never seen.
HELD_OUT_SEED = 10_000_000


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


def make_edit(pipeline: EditPipeline, edit: Edit, size: tuple[int, int], seed: int) -> Pixels:
    """The model's picture for the edit, as values from 0 to 255."""
    params = EditParams(
        prompt=edit.prompt, size=size, seed=seed, bounds=SizeBounds(min_side=min(size))
    )
    result = pipeline.edit(params, [draw(scene, *size) for scene in edit.sources])
    return np.asarray(result.images[0], np.float32)
