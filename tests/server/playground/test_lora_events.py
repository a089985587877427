"""Trigger words in the prompt, and what the page tells about a LoRA."""

from pathlib import Path

import pytest

from pipelines.files.lora_format.report import inspect_lora
from server.playground.lora_events import with_word
from server.playground.lora_views import about
from tests.conftest import encoded, gradient
from tests.lora_files import random_pairs, write_lora

LINEARS = {"proj_out": (64, 64)}


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("", "oil"),
        ("  \n", "oil"),
        ("Make it blue", "Make it blue, oil"),
        ("Make it blue. ", "Make it blue. oil"),
        ("an oil painting", "an oil painting"),
        ("boil it", "boil it, oil"),
    ],
)
def test_trigger_word_goes_to_the_end_of_the_prompt_once(prompt: str, expected: str) -> None:
    assert with_word(prompt, "oil") == expected


@pytest.mark.parametrize("word", ["<sks>", "(oil:1.2)", "a.b"])
def test_trigger_word_with_punctuation_is_added_once(word: str) -> None:
    once = with_word("Make it blue", word)

    assert once == f"Make it blue, {word}"
    assert with_word(once, word) == once


def test_texts_of_a_lora_are_escaped(tmp_path: Path) -> None:
    hostile = "<script>alert('1')</script>\""
    keys = ("modelspec.title", "modelspec.usage_hint", "trigger_word")
    path = tmp_path / "a'\"<b>.safetensors"
    pairs = random_pairs(LINEARS, list(LINEARS))
    write_lora(path, pairs, metadata=dict.fromkeys(keys, hostile))
    path.with_suffix(".png").write_bytes(encoded(gradient()))

    shown = about(inspect_lora(path, LINEARS, path.name), 1)

    assert "<script" not in shown
    assert "<b>" not in shown
    assert 'src="./lora-thumbnails/a%27%22%3Cb%3E.safetensors"' in shown
    assert shown.count("&lt;script&gt;alert(&#x27;1&#x27;)&lt;/script&gt;&quot;") == 4


def test_lora_of_another_model_is_told_with_the_reason(tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", random_pairs(LINEARS, list(LINEARS)))

    shown = about(inspect_lora(path, {"proj_out": (32, 32)}, path.name), 1)

    assert "does not fit this model" in shown
    assert "rank" not in shown
