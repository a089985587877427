"""What the demo model is told, and that its tokenizer knows the words."""

import numpy as np
import pytest

from demo_model import random_weights as demo
from demo_model.families import draw_family
from demo_model.instructions import PHRASES, Task, all_words
from demo_model.scenes import COLORS, SHAPES


def test_every_word_is_one_token_at_the_beginning_and_inside_a_prompt() -> None:
    tokenizer = demo.build_tokenizer()
    for word in [*all_words(), *COLORS, *SHAPES]:
        for form in (word, word.capitalize(), word if word.isdigit() else f" {word}"):
            assert len(tokenizer(form)["input_ids"]) == 1, form


@pytest.mark.parametrize("task", [task for task in Task if task is not Task.KEEP])
def test_every_task_has_several_phrasings(task: Task) -> None:
    assert len(set(PHRASES[task])) >= 8


def test_families_hold_every_task_and_name_what_they_change() -> None:
    rng = np.random.default_rng(0)
    edits = [edit for _ in range(30) for edit in draw_family(rng)]

    assert {edit.task for edit in edits} == set(Task)
    for edit in edits:
        if edit.task is Task.RECOLOR:
            assert edit.changed[0].color in edit.prompt
            assert edit.sources[0] != edit.target
        if edit.task is Task.TRANSFER:
            assert edit.sources[1].things[0].color == edit.changed[0].color
            assert edit.changed[0].color not in edit.prompt
        if edit.task is Task.KEEP:
            assert edit.sources == (edit.target,)
