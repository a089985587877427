"""Qwen2.5-VL as a text encoder: what diffusers leaves out, and what it computes for nothing.

All by hooks on the loaded model; its results stay those of the library, bit for bit.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_outputs import BaseModelOutputWithPooling


def pass_image_token_types(text_encoder: PreTrainedModel) -> None:
    """Give Qwen2.5-VL the `mm_token_type_ids` that diffusers 0.42 does not pass.

    Without them transformers 5 places image tokens in one dimension instead of three, and the
    images come out different, silently. https://github.com/huggingface/diffusers/issues/14194
    """

    def add_token_types(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        has_images = kwargs.get("image_grid_thw") is not None
        if has_images and kwargs.get("mm_token_type_ids") is None:
            image_token = text_encoder.config.image_token_id
            kwargs["mm_token_type_ids"] = (kwargs["input_ids"] == image_token).int()
        return args, kwargs

    text_encoder.register_forward_pre_hook(add_token_types, with_kwargs=True)


def compute_last_logits_only(text_encoder: PreTrainedModel) -> None:
    """Compute the logits of the last token only, where a caller does not say which.

    Embeddings need none at all, and at the published size those of 650 tokens cost 0.7 TFLOP.
    """

    def keep_one(
        module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        kwargs.setdefault("logits_to_keep", 1)
        return args, kwargs

    text_encoder.register_forward_pre_hook(keep_one, with_kwargs=True)


@contextmanager
def images_seen_once(text_encoder: PreTrainedModel) -> Iterator[None]:
    """Run the vision tower once for prompts over the same images inside the block.

    The block is within one stack of LoRAs. Other images run the tower again.
    """
    model = text_encoder.model
    model.get_image_features = _LastImages(model.get_image_features)
    try:
        yield
    finally:
        del model.get_image_features


@dataclass(slots=True)
class _LastImages:
    """`get_image_features` that remembers the last images, by their pixels.

    Replaced as a method, inside the model's `forward`, and not called before it: an offloaded
    model is on its device only there.
    """

    compute: Callable[..., BaseModelOutputWithPooling]
    images: tuple[torch.Tensor, torch.Tensor] | None = None
    # without the hidden states of each vision layer, which diffusers asks for and does not read
    features: tuple[torch.Tensor, ...] = ()

    def __call__(
        self, pixel_values: torch.Tensor, image_grid_thw: torch.Tensor, **kwargs: Any
    ) -> BaseModelOutputWithPooling:
        images = (pixel_values, image_grid_thw)
        if self.images is None or not all(map(torch.equal, self.images, images)):
            self.features = self.compute(pixel_values, image_grid_thw, **kwargs).pooler_output
            self.images = images
        return BaseModelOutputWithPooling(pooler_output=self.features)
