"""From a directory in the published layout to diffusers' pipeline object, ready on a device."""

from pathlib import Path
from typing import Any

import torch
from diffusers import QwenImageEditPlusPipeline
from torch import nn
from transformers import PreTrainedModel, Qwen2VLProcessor

from pipelines.api.errors import ModelUnusable
from pipelines.api.load_options import Offload


class ImageOnlyQwen2VLProcessor(Qwen2VLProcessor):  # type: ignore[misc]
    """Qwen2VLProcessor without its video processor, the only part that needs torchvision."""

    def __init__(
        self,
        image_processor: Any = None,
        tokenizer: Any = None,
        chat_template: str | None = None,
        **_: Any,
    ) -> None:
        super().__init__(image_processor, tokenizer, None, chat_template=chat_template)


def load_components(path: Path, dtype: torch.dtype) -> QwenImageEditPlusPipeline:
    """The pipeline object whose components our step loop uses, in host memory.

    Raises ModelUnusable with the library's own words when the directory cannot be loaded.
    """
    try:
        pipe = QwenImageEditPlusPipeline.from_pretrained(
            path,
            # Without a dtype the weights load as fp32: twice the memory, and slow.
            dtype=dtype,
            processor=ImageOnlyQwen2VLProcessor.from_pretrained(path / "processor"),
            local_files_only=True,
            # else a folder without safetensors would be read as pickles
            use_safetensors=True,
        )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError) as exc:
        raise ModelUnusable(f"The model in {path} cannot be loaded: {exc}") from exc
    pass_image_token_types(pipe.text_encoder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


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


def place(pipe: QwenImageEditPlusPipeline, device: torch.device, offload: Offload) -> None:
    """Put the components on `device`, or have them come and go.

    With Offload.MODEL one component at a time is there, with Offload.GROUP one layer and the next.
    Raises ModelUnusable when the device cannot do that.
    """
    if offload is Offload.NONE:
        pipe.to(device)
    elif offload is Offload.MODEL:
        pipe.enable_model_cpu_offload(device=device)
    else:
        pipe.enable_group_offload(
            onload_device=device,
            offload_type="leaf_level",
            # a stream copies the next layer while this one computes; only CUDA has streams
            use_stream=device.type == "cuda",
        )
