"""The demo model's instructions, and the tokenizer that knows their words."""

import string
from collections.abc import Sequence

import numpy as np
import pytest

from demo_model import random_weights as demo
from demo_model.edits import draw_edits
from demo_model.instructions import FIRST, NICKNAMES, PHRASES, PLACES, SECOND, Task
from demo_model.scenes import COLORS, KINDS


def instruction_words() -> Sequence[str]:
    """Every word of an instruction except the names of colours and shapes."""
    phrases = [phrase for some in PHRASES.values() for phrase in some]
    phrases += [place for some in PLACES.values() for place in some]
    fields = {
        name for phrase in phrases for _, name, _, _ in string.Formatter().parse(phrase) if name
    }
    text = " ".join([*phrases, *FIRST, *SECOND, *NICKNAMES.values()])
    text = text.format(**dict.fromkeys(fields, ""))
    return sorted({*text.split(), "a", "an", "the", "it", "please", "object", "shape", "one"})


def test_every_word_is_one_token_at_the_beginning_and_inside_a_prompt() -> None:
    tokenizer = demo.build_tokenizer()
    for word in [*instruction_words(), *COLORS, *KINDS]:
        for form in (word, word.capitalize(), word if word.isdigit() else f" {word}"):
            assert len(tokenizer(form)["input_ids"]) == 1, form


@pytest.mark.parametrize("task", [task for task in Task if task is not Task.KEEP])
def test_every_task_has_several_phrasings(task: Task) -> None:
    assert len(set(PHRASES[task])) >= 8


def test_drawn_edits_have_every_task_and_name_what_they_change() -> None:
    rng = np.random.default_rng(0)
    edits = [edit for _ in range(30) for edit in draw_edits(rng)]

    assert {edit.task for edit in edits} == set(Task)
    for edit in edits:
        if edit.task is Task.RECOLOR:
            assert edit.changed[0].color in edit.prompt
            assert edit.sources[0] != edit.target
        if edit.task is Task.TRANSFER:
            assert edit.sources[1].shapes[0].color == edit.changed[0].color
            assert edit.changed[0].color not in edit.prompt
        if edit.task is Task.KEEP:
            assert edit.sources == (edit.target,)
