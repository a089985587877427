"""The judge: right images pass, unchanged and wrong ones do not."""

import numpy as np
import pytest

from demo_model.families import Edit, draw_family
from demo_model.instructions import Task
from demo_model.metrics import judge
from demo_model.scenes import paint

SIZE = (128, 96)


@pytest.fixture(scope="module")
def edits() -> list[Edit]:
    """About three hundred edits of every task."""
    rng = np.random.default_rng(11)
    return [edit for _ in range(15) for edit in draw_family(rng)]


@pytest.mark.parametrize("task", Task)
def test_drawn_target_is_right_and_nothing_else_changed(edits: list[Edit], task: Task) -> None:
    for edit in (edit for edit in edits if edit.task is task):
        verdict = judge(edit, paint(edit.target, *SIZE))
        assert verdict.is_right, edit
        assert verdict.unchanged_error == 0


@pytest.mark.parametrize("task", [task for task in Task if task is not Task.KEEP])
def test_unchanged_source_is_wrong(edits: list[Edit], task: Task) -> None:
    for edit in (edit for edit in edits if edit.task is task):
        assert not judge(edit, paint(edit.sources[0], *SIZE)).is_right, edit


@pytest.mark.parametrize("task", Task)
def test_noise_is_wrong_and_counts_as_change(edits: list[Edit], task: Task) -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 255, (SIZE[1], SIZE[0], 3))
    chosen = [edit for edit in edits if edit.task is task]
    verdicts = [judge(edit, noise) for edit in chosen]

    # grey noise has the mean of the palette's gray, which now and then is what was asked for
    assert np.mean([verdict.is_right for verdict in verdicts]) < 0.35
    assert all(verdict.unchanged_error > 0.15 for verdict in verdicts)
