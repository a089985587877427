"""Prompts before they are encoded: cut to a length, rewritten by the model, checked.

The text encoder is a whole vision-language model: it sees the images and can say the instruction
in more words. Decoding is greedy, so the same seed gives the same image.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import PIL.Image
import torch
from diffusers import DiffusionPipeline
from transformers import StoppingCriteria, StoppingCriteriaList

from pipelines.api.errors import InvalidParameter
from pipelines.engine.loading import LoadedModel

MAX_NEW_TOKENS = 256
MAX_SECONDS = 30.0


def cut_prompt(pipe: DiffusionPipeline, prompt: str, max_tokens: int) -> str:
    """The beginning of the prompt that has at most `max_tokens` of the model's own tokens."""
    offsets = pipe.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) <= max_tokens:
        return prompt
    # The start of the first token too many: a character of several tokens is left out whole.
    end: int = offsets[max_tokens][0]
    return prompt[:end].rstrip()


def check_length(model: LoadedModel, field: str, prompt: str) -> None:
    """Raise InvalidParameter when the prompt has more tokens than the model has positions for."""
    count = len(model.pipe.tokenizer(prompt)["input_ids"])
    allowed = model.family.facts.max_prompt_tokens
    if count > allowed:
        raise InvalidParameter(field, f"must have at most {allowed} tokens, got {count}")


@torch.no_grad()
def extend_prompt(
    model: LoadedModel,
    prompt: str,
    images: Sequence[PIL.Image.Image],
    on_token: Callable[[], None],
) -> str | None:
    """The prompt in the model's own words, or None when it finds no end within its limits.

    `on_token` is called after each token; an exception from it ends the work.
    """
    inputs = _chat_inputs(model, prompt, images)
    tokenizer = model.pipe.tokenizer
    end = tokenizer.convert_tokens_to_ids(model.family.rewriting.end)
    tokens = model.pipe.text_encoder.generate(
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        # the published generation settings would sample
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
        stopping_criteria=StoppingCriteriaList([_Clock(on_token)]),
    )[0, inputs["input_ids"].shape[1] :]
    if int(tokens[-1]) != end:
        # out of time or tokens: the user's own prompt is better than half a sentence
        return None
    words: str = tokenizer.decode(tokens[:-1], skip_special_tokens=True).strip()
    return words or None


def _chat_inputs(model: LoadedModel, prompt: str, images: Sequence[PIL.Image.Image]) -> Any:
    pipe, rewriting, sizes = model.pipe, model.family.rewriting, model.family.facts.sizes
    area = model.spec.condition_area
    sized = [image.resize(sizes.area_size(area, *image.size)) for image in images]
    content: list[dict[str, str]] = []
    for number in range(1, len(sized) + 1):
        label = rewriting.image_label.format(number=number)
        content += [{"type": "text", "text": label}, {"type": "image"}]
    messages = [
        {"role": "system", "content": rewriting.instruction},
        {"role": "user", "content": [*content, {"type": "text", "text": prompt}]},
    ]
    text = pipe.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = pipe.processor(text=[text], images=sized, return_tensors="pt")
    return inputs.to(pipe._execution_device)


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Reports each token, and stops when the time is up."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self._on_token = on_token
        self._deadline = time.monotonic() + MAX_SECONDS

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self._on_token()
        is_late = time.monotonic() > self._deadline
        return torch.full((input_ids.shape[0],), is_late, device=input_ids.device)
