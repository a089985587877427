"""Prompts cut by the model's own tokens, and rewritten by a model that can write."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from demo_model import random_weights as demo
from pipelines.api.messages import Stage
from pipelines.api.params import EditParams
from pipelines.engine import prompts
from pipelines.engine.edit_result import Progress
from pipelines.engine.families.qwen_image_edit_plus import REWRITING
from pipelines.engine.pipeline import EditPipeline
from tests.conftest import TINY_SPEC, gradient

WORDS = "make the circle blue"


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> EditPipeline:
    """A model with `can_write`. Its weights are random, and so are its words."""
    path = tmp_path_factory.mktemp("writer") / "model"
    spec = dataclasses.replace(TINY_SPEC, can_write=True)
    demo.build(path, width=64, layers=1, spec=spec)
    return EditPipeline.load(path, device="cpu", dtype=torch.float32)


@pytest.fixture
def written(writer: EditPipeline) -> Iterator[list[str]]:
    """The model's next answer: a random model never ends a sentence by itself.

    A hook on the last layer, which picks the tokens, replaces its logits; the chat template, the
    processor, `generate` and the use of its result are real.
    """
    head = writer._pipe.text_encoder.lm_head
    tokenizer = writer._pipe.tokenizer
    words: list[str] = []
    message = 0

    def speak(module: torch.nn.Module, args: object, logits: torch.Tensor) -> torch.Tensor:
        nonlocal message
        tokens = [*tokenizer(words[0])["input_ids"], tokenizer.convert_tokens_to_ids("<|im_end|>")]
        spoken = torch.full_like(logits, -100.0)
        spoken[..., tokens[min(message, len(tokens) - 1)]] = 100.0
        message += 1
        return spoken

    handle = head.register_forward_hook(speak)
    yield words
    handle.remove()


def edit(
    pipeline: EditPipeline, prompt: str = WORDS, *, extend: bool = True, cut: int | None = None
) -> tuple[str, bool, np.ndarray]:
    params = EditParams(
        prompt=prompt, seed=1, size=(256, 256), extend_prompt=extend, max_prompt_tokens=cut
    )
    result = pipeline.edit(params, [gradient(), gradient(shift=40)])
    return result.prompt, result.is_extended, np.asarray(result.images[0])


def test_prompt_is_rewritten_and_encoded_in_its_new_words(
    writer: EditPipeline, written: list[str]
) -> None:
    written.append("make the circle in image one blue")

    prompt, is_extended, image = edit(writer)

    assert (prompt, is_extended) == ("make the circle in image one blue", True)
    _, _, same_words = edit(writer, "make the circle in image one blue", extend=False)
    assert np.array_equal(image, same_words)


def test_model_sees_the_images_and_the_instruction(
    writer: EditPipeline, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written.append("blue")
    seen: dict[str, object] = {}
    generate = writer._pipe.text_encoder.generate
    monkeypatch.setattr(
        writer._pipe.text_encoder,
        "generate",
        lambda **inputs: (seen.update(inputs), generate(**inputs))[1],
    )

    edit(writer)

    text = writer._pipe.tokenizer.decode(seen["input_ids"][0])
    assert REWRITING.instruction in text
    assert "Picture 1: <|vision_start|>" in text
    assert "Picture 2: <|vision_start|>" in text
    assert text.endswith(f"{WORDS}<|im_end|>\n<|im_start|>assistant\n")
    assert len(seen["image_grid_thw"]) == 2
    assert seen["do_sample"] is False


def test_same_prompt_is_rewritten_the_same_way(writer: EditPipeline) -> None:
    first, second = edit(writer), edit(writer)
    assert first[:2] == second[:2]
    assert np.array_equal(first[2], second[2])


def test_users_prompt_stays_when_the_answer_has_no_end(
    writer: EditPipeline, written: list[str]
) -> None:
    written.append("blue " * prompts.MAX_NEW_TOKENS)
    assert edit(writer)[:2] == (WORDS, False)


def test_users_prompt_stays_when_the_time_is_up(
    writer: EditPipeline, written: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written.append("make the circle in image one blue")
    monkeypatch.setattr(prompts, "MAX_SECONDS", 0.0)
    assert edit(writer)[:2] == (WORDS, False)


def test_users_prompt_stays_when_the_answer_is_empty(
    writer: EditPipeline, written: list[str]
) -> None:
    written.append("")
    assert edit(writer)[:2] == (WORDS, False)


def test_users_prompt_stays_when_the_model_cannot_write(tiny_model: Path) -> None:
    pipeline = EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32)
    assert edit(pipeline)[:2] == (WORDS, False)


def test_edit_can_be_interrupted_while_the_model_writes(writer: EditPipeline) -> None:
    class Left(Exception):
        pass

    calls = 0

    def leave(progress: Progress) -> None:
        nonlocal calls
        calls += progress.stage is Stage.EXTEND
        if calls == 5:
            raise Left

    before = edit(writer, extend=False)[2]
    params = EditParams(prompt=WORDS, seed=1, size=(256, 256), extend_prompt=True)
    with pytest.raises(Left):
        writer.edit(params, [gradient()], leave)
    assert np.array_equal(before, edit(writer, extend=False)[2])


def test_prompt_is_cut_to_the_allowed_tokens(writer: EditPipeline) -> None:
    prompt, _, image = edit(writer, f"{WORDS} and remove the square", extend=False, cut=4)
    assert prompt == WORDS
    assert np.array_equal(image, edit(writer, WORDS, extend=False)[2])


@pytest.mark.parametrize("text", ["日本語の長い文章です" * 30, "é" * 300, "a🙂b" * 100])
def test_prompt_of_any_script_is_cut_between_characters(writer: EditPipeline, text: str) -> None:
    cut = prompts.cut_prompt(writer._pipe, text, 50)
    assert text.startswith(cut)
    assert 0 < len(cut) < len(text)
    assert len(writer._pipe.tokenizer(cut)["input_ids"]) <= 50


def test_short_prompt_is_not_cut(writer: EditPipeline) -> None:
    assert prompts.cut_prompt(writer._pipe, WORDS, 4) == WORDS


def test_previews_approach_the_output(
    writer: EditPipeline,
) -> None:
    params = EditParams(
        prompt=WORDS, seed=1, size=(256, 256), num_inference_steps=20, num_previews=3
    )
    previews: list[tuple[int, np.ndarray]] = []

    result = writer.edit(
        params,
        [gradient()],
        on_preview=lambda index, image: previews.append((index, np.asarray(image, int))),
    )

    final = np.asarray(result.images[0], int)
    distances = [np.abs(preview - final).mean() for _, preview in previews]
    assert [index for index, _ in previews] == [0, 1, 2]
    assert distances[2] < distances[0]
