"""What is done to a prompt before it is encoded: cut to a length, or rewritten by the model itself.

The text encoder is a whole vision-language model: it sees the images and can say the instruction
in more words. Greedy decoding, so that the same seed gives the same image.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any

import PIL.Image
import torch
from diffusers import QwenImageEditPlusPipeline
from transformers import StoppingCriteria, StoppingCriteriaList

from pipelines.api.model_spec import ModelSpec
from pipelines.api.sizes import area_size

MAX_NEW_TOKENS = 256
MAX_SECONDS = 30.0
INSTRUCTION = (
    "You prepare instructions for an image editor that cannot ask back. You see the pictures it "
    "will work on; they are called Picture 1, Picture 2 and so on, in the order you see them. "
    "Rewrite the user's instruction so that it says exactly what is meant, in the language the "
    "user wrote in. Keep the intent. Text that shall appear in the picture stands in quotation "
    "marks, letter by letter as the user gave it. With several pictures, say from which one each "
    "element comes. People keep their face, hair, age and figure unless the user wants them "
    "changed. Describe place, size, colour and style where the instruction or the pictures "
    "determine them. Add no object, no style and no change that was not asked for. Answer with the "
    "new instruction alone, in one paragraph of at most 120 words."
)


def cut_prompt(pipe: QwenImageEditPlusPipeline, prompt: str, max_tokens: int) -> str:
    """The part of the prompt that is at most `max_tokens` of the model's own tokens long."""
    offsets = pipe.tokenizer(prompt, return_offsets_mapping=True)["offset_mapping"]
    if len(offsets) <= max_tokens:
        return prompt
    # Where the first token too many begins: a character of several tokens is left out whole.
    end: int = offsets[max_tokens][0]
    return prompt[:end].rstrip()


@torch.no_grad()
def extend_prompt(
    pipe: QwenImageEditPlusPipeline,
    prompt: str,
    images: Sequence[PIL.Image.Image],
    spec: ModelSpec,
    on_token: Callable[[], None],
) -> str | None:
    """The prompt in the model's own words, or None when it finds none in time.

    `on_token` is called after each token; what it raises ends the work.
    """
    inputs = _chat_inputs(pipe, prompt, images, spec)
    tokenizer = pipe.tokenizer
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    clock = _Clock(on_token)
    tokens = pipe.text_encoder.generate(
        **inputs,
        max_new_tokens=MAX_NEW_TOKENS,
        do_sample=False,
        # the published generation settings would sample
        temperature=None,
        top_p=None,
        top_k=None,
        eos_token_id=end,
        pad_token_id=tokenizer.pad_token_id,
        stopping_criteria=StoppingCriteriaList([clock]),
    )[0, inputs["input_ids"].shape[1] :]
    if int(tokens[-1]) != end:
        # out of time or of tokens: half a sentence is worse than the user's own
        return None
    words: str = tokenizer.decode(tokens[:-1], skip_special_tokens=True).strip()
    return words or None


def _chat_inputs(
    pipe: QwenImageEditPlusPipeline,
    prompt: str,
    images: Sequence[PIL.Image.Image],
    spec: ModelSpec,
) -> Any:
    sized = [image.resize(area_size(spec.condition_area, *image.size)) for image in images]
    shown: list[dict[str, str]] = []
    for number in range(1, len(sized) + 1):
        shown += [{"type": "text", "text": f"Picture {number}: "}, {"type": "image"}]
    messages = [
        {"role": "system", "content": INSTRUCTION},
        {"role": "user", "content": [*shown, {"type": "text", "text": prompt}]},
    ]
    text = pipe.processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    inputs = pipe.processor(text=[text], images=sized, return_tensors="pt")
    return inputs.to(pipe._execution_device)


class _Clock(StoppingCriteria):  # type: ignore[misc]
    """Tells of each token, and stops when the time is up."""

    def __init__(self, on_token: Callable[[], None]) -> None:
        self._on_token = on_token
        self._deadline = time.monotonic() + MAX_SECONDS

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor, **_: Any) -> torch.Tensor:
        self._on_token()
        is_late = time.monotonic() > self._deadline
        return torch.full((input_ids.shape[0],), is_late, device=input_ids.device)
