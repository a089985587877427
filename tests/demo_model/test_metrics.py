"""The metrics accept right images and reject unchanged and wrong ones."""

import numpy as np
import pytest

from demo_model.edits import Edit, draw_edits
from demo_model.instructions import Task
from demo_model.metrics import measure
from demo_model.scenes import paint

SIZE = (128, 96)


@pytest.fixture(scope="module")
def edits() -> list[Edit]:
    """About three hundred edits of every task."""
    rng = np.random.default_rng(11)
    return [edit for _ in range(15) for edit in draw_edits(rng)]


@pytest.mark.parametrize("task", Task)
def test_drawn_target_is_right_and_changes_nothing_else(edits: list[Edit], task: Task) -> None:
    for edit in (edit for edit in edits if edit.task is task):
        measured = measure(edit, paint(edit.target, *SIZE))
        assert measured.is_right, edit
        assert measured.unchanged_error == 0


@pytest.mark.parametrize("task", [task for task in Task if task is not Task.KEEP])
def test_unchanged_source_is_wrong(edits: list[Edit], task: Task) -> None:
    for edit in (edit for edit in edits if edit.task is task):
        assert not measure(edit, paint(edit.sources[0], *SIZE)).is_right, edit


@pytest.mark.parametrize("task", Task)
def test_noise_is_wrong_and_counts_as_change(edits: list[Edit], task: Task) -> None:
    rng = np.random.default_rng(0)
    noise = rng.uniform(0, 255, (SIZE[1], SIZE[0], 3))
    chosen = [edit for edit in edits if edit.task is task]
    measured = [measure(edit, noise) for edit in chosen]

    # gray noise has the mean of the palette's gray, which some edits ask for
    assert np.mean([one.is_right for one in measured]) < 0.35
    assert all(one.unchanged_error > 0.15 for one in measured)
