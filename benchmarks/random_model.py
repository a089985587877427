"""The published architecture with random weights, created on the device that runs it.

The libraries' own initialisation (normal with standard deviation 0.02 in the text encoder, uniform
with fan-in scaling elsewhere, norms at one) keeps bf16 activations finite through 60 layers. Time
and memory do not depend on the values; the image is noise.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from demo_model.random_weights import CHAT_TEMPLATE, DEMO_SPEC, build_tokenizer
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.model_spec import ModelSpec
from pipelines.engine import families
from pipelines.engine.families.qwen_image_edit_plus import ImageOnlyQwen2VLProcessor
from pipelines.engine.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class Architecture:
    """Depths and widths of the three networks, and the model's spec.

    `rope_axes` (frame, height, width) add up to a head of the transformer, `text_rope_sections`
    (time, height, width) to half a head of the text encoder.
    """

    spec: ModelSpec
    layers: int
    heads: int
    rope_axes: tuple[int, int, int]
    text_layers: int
    text_hidden: int
    text_heads: int
    text_kv_heads: int
    text_ffn: int
    text_rope_sections: tuple[int, int, int]
    vocabulary: int
    vision_layers: int
    vision_hidden: int
    vision_heads: int
    vision_ffn: int
    vision_full_attention: tuple[int, ...]
    vae_width: int
    vae_blocks: int
    zero_cond_t: bool = True

    def with_depths(self, layers: int | None, text_layers: int | None) -> "Architecture":
        """The same widths with fewer layers; None keeps a depth.

        `text_layers` also bounds the vision layers of the text encoder.
        """
        text = self.text_layers if text_layers is None else text_layers
        vision = self.vision_layers if text_layers is None else min(text, self.vision_layers)
        return replace(
            self,
            layers=self.layers if layers is None else layers,
            text_layers=text,
            vision_layers=vision,
            vision_full_attention=tuple(n for n in self.vision_full_attention if n < vision),
        )


PUBLISHED = Architecture(
    spec=QWEN_IMAGE_EDIT_PLUS.spec,
    layers=60,
    heads=24,
    rope_axes=(16, 56, 56),
    text_layers=28,
    text_hidden=3584,
    text_heads=28,
    text_kv_heads=4,
    text_ffn=18944,
    text_rope_sections=(16, 24, 24),
    vocabulary=152064,
    vision_layers=32,
    vision_hidden=1280,
    vision_heads=16,
    vision_ffn=3420,
    vision_full_attention=(7, 15, 23, 31),
    vae_width=96,
    vae_blocks=2,
)
# For machines without a GPU: all components, and an edit takes a second.
SMALL = Architecture(
    spec=replace(DEMO_SPEC, name="small", reference_area=256 * 256),
    layers=2,
    heads=4,
    rope_axes=(8, 12, 12),
    text_layers=2,
    text_hidden=64,
    text_heads=4,
    text_kv_heads=2,
    text_ffn=128,
    text_rope_sections=(2, 3, 3),
    vocabulary=4096,
    vision_layers=2,
    vision_hidden=32,
    vision_heads=2,
    vision_ffn=64,
    vision_full_attention=(1,),
    vae_width=8,
    vae_blocks=1,
)


def build(
    architecture: Architecture, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> LoadedModel:
    """The model with random weights in `dtype`, created on `device` itself.

    It is repaired like a model that is loaded from files.
    """
    tokenizer = build_tokenizer()
    torch.manual_seed(seed)
    with _made_on(device, dtype):
        text_encoder = build_text_encoder(architecture, tokenizer).eval()
        transformer = build_transformer(architecture).eval()
        vae = build_vae(architecture).eval()
    pipe = QwenImageEditPlusPipeline(
        scheduler=_scheduler(),
        vae=vae,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        processor=ImageOnlyQwen2VLProcessor(
            Qwen2VLImageProcessorPil(), tokenizer, chat_template=CHAT_TEMPLATE
        ),
        transformer=transformer,
    )
    pipe.set_progress_bar_config(disable=True)
    family = families.QWEN_IMAGE_EDIT_PLUS
    family.repair(pipe)
    return LoadedModel(pipe, family, architecture.spec)


def build_transformer(architecture: Architecture) -> QwenImageTransformer2DModel:
    """The transformer."""
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=architecture.layers,
        attention_head_dim=sum(architecture.rope_axes),
        num_attention_heads=architecture.heads,
        joint_attention_dim=architecture.text_hidden,
        axes_dims_rope=architecture.rope_axes,
        zero_cond_t=architecture.zero_cond_t,
    )


def build_text_encoder(
    architecture: Architecture, tokenizer: Qwen2Tokenizer
) -> Qwen2_5_VLForConditionalGeneration:
    """Qwen2.5-VL with the token ids of `tokenizer`, which may be smaller than the vocabulary."""
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": architecture.vocabulary,
            "hidden_size": architecture.text_hidden,
            "intermediate_size": architecture.text_ffn,
            "num_hidden_layers": architecture.text_layers,
            "num_attention_heads": architecture.text_heads,
            "num_key_value_heads": architecture.text_kv_heads,
            "bos_token_id": None,
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<|endoftext|>"),
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": list(architecture.text_rope_sections),
            },
        },
        vision_config={
            "depth": architecture.vision_layers,
            "hidden_size": architecture.vision_hidden,
            "intermediate_size": architecture.vision_ffn,
            "num_heads": architecture.vision_heads,
            "out_hidden_size": architecture.text_hidden,
            "fullatt_block_indexes": list(architecture.vision_full_attention),
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def build_vae(architecture: Architecture) -> AutoencoderKLQwenImage:
    """The VAE."""
    return AutoencoderKLQwenImage(
        base_dim=architecture.vae_width,
        z_dim=16,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=architecture.vae_blocks,
    )


def count_parameters(module: nn.Module) -> int:
    """The number of parameters of the module."""
    return sum(parameter.numel() for parameter in module.parameters())


def _scheduler() -> FlowMatchEulerDiscreteScheduler:
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        time_shift_type="exponential",
    )


@contextmanager
def _made_on(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Create tensors on `device` in the block, floating ones without an explicit dtype in `dtype`.

    The frequencies of rotary positions ask for float32 explicitly.
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            yield
    finally:
        torch.set_default_dtype(before)
