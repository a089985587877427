"""Small random models of the published architecture, in the published folder layout.

The same seed gives the same bytes. The demo model is trained from one; tests and benchmarks use
them untrained.
"""

import json
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImageEditPlusPipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers
from torch import nn
from transformers import Qwen2_5_VLConfig, Qwen2_5_VLForConditionalGeneration, Qwen2Tokenizer
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.model_spec import DEMO_NAME, ModelSpec
from pipelines.engine.families.qwen_image_edit_plus import ImageOnlyQwen2VLProcessor
from pipelines.files.spec_file import write_spec

DEMO_SPEC = replace(
    QWEN_IMAGE_EDIT_PLUS.spec,
    name=DEMO_NAME,
    # the demo model does not relate positions in images of different sizes
    reference_area=None,
    condition_area=56 * 56,
    output_area=256 * 256,
    num_inference_steps=8,
    true_cfg_scale=1.0,
    can_write=False,
)
# Qwen's control tokens, in the order of their ids.
SPECIAL_TOKENS = [
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>",
    "<|box_start|>", "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>",
    "<|vision_end|>", "<|vision_pad|>", "<|image_pad|>", "<|video_pad|>",
]  # fmt: skip
# Words that newcomers type. Each becomes one token, as in the published vocabulary.
VOCABULARY = (
    "make the turn change recolor recolour paint color colour it into to a an of in on with and as "
    "red green blue yellow purple orange white black gray grey pink brown cyan picture image photo "
    "circle ball square triangle shape object thing background remove delete erase add put draw "
    "place move shift push slide insert replace set give use keep get take want need would like "
    "left right up down top bottom side corner center centre middle front away rid at for from "
    "first second third one two three 1 2 3 same match do not no should be is there disappear "
    "style sepia outline mosaic small large big please by that this my all nothing i s"
)
CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
    "{% if message['content'] is string %}{{ message['content'] }}{% else %}"
    "{% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% else %}{{ part['text'] }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# How Qwen's tokenizer splits text into words before byte-pair encoding.
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class VaeShape:
    """The size of a VAE; whatever it is, 8×8 pixels become one latent of 16 channels."""

    base_dim: int
    dim_mult: tuple[int, int, int, int]
    num_res_blocks: int


# The smallest that reconstructs drawn scenes.
DEMO_VAE = VaeShape(base_dim=8, dim_mult=(1, 2, 4, 4), num_res_blocks=1)


def build(
    path: Path,
    *,
    width: int = 128,
    layers: int = 2,
    vae: VaeShape = DEMO_VAE,
    zero_cond_t: bool = True,
    seed: int = 0,
    spec: ModelSpec = DEMO_SPEC,
) -> None:
    """Write a random model of the published architecture to `path`.

    `width` is the transformer's inner dimension, a multiple of 32. `zero_cond_t` is true for
    Qwen-Image-Edit-2511 and false for -2509.
    """
    tokenizer = build_tokenizer()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        pipe = QwenImageEditPlusPipeline(
            scheduler=_scheduler(),
            vae=new_vae(vae).eval(),
            text_encoder=_text_encoder(tokenizer).eval(),
            tokenizer=tokenizer,
            processor=ImageOnlyQwen2VLProcessor(
                Qwen2VLImageProcessorPil(), tokenizer, chat_template=CHAT_TEMPLATE
            ),
            transformer=new_transformer(width, layers, zero_cond_t).eval(),
        )
        _amplify(pipe.transformer, gain=1.75)
        # Weak layers over strong embeddings keep each state close to its own word.
        _amplify(pipe.text_encoder, gain=0.5)
        nn.init.normal_(pipe.text_encoder.get_input_embeddings().weight)
    pipe.save_pretrained(path)
    _name_published_classes(path, pipe.processor.image_processor.to_dict())
    write_spec(path, spec)


def build_tokenizer() -> Qwen2Tokenizer:
    """A byte-level BPE tokenizer of Qwen's kind, trained on the words of the demo's prompts."""
    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=4096, min_frequency=1, initial_alphabet=alphabet, show_progress=False
    )
    words.train_from_iterator(_tokenizer_texts(), trainer)
    learned = json.loads(words.to_str())["model"]
    tokenizer = Qwen2Tokenizer(
        vocab=learned["vocab"],
        merges=[tuple(pair) for pair in learned["merges"]],
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        extra_special_tokens=SPECIAL_TOKENS,
    )
    tokenizer.add_tokens(SPECIAL_TOKENS, special_tokens=True)
    return tokenizer


def _tokenizer_texts() -> list[str]:
    """Texts whose words each become a token: the pipeline's template and `VOCABULARY`.

    The template matters because the pipeline drops its first 64 tokens by count.
    """
    template = QwenImageEditPlusPipeline(*[None] * 6).prompt_template_encode
    words = [form for word in VOCABULARY.split() for form in (word, word.capitalize())]
    return [template, *words, *(f" {word}" for word in words)]


def _scheduler() -> FlowMatchEulerDiscreteScheduler:
    """The schedule of the published models."""
    return FlowMatchEulerDiscreteScheduler(
        use_dynamic_shifting=True,
        base_shift=0.5,
        max_shift=0.9,
        base_image_seq_len=256,
        max_image_seq_len=8192,
        shift_terminal=0.02,
        time_shift_type="exponential",
    )


def _text_encoder(tokenizer: Qwen2Tokenizer) -> Qwen2_5_VLForConditionalGeneration:
    token_id = tokenizer.convert_tokens_to_ids
    config = Qwen2_5_VLConfig(
        text_config={
            "vocab_size": len(tokenizer),
            "hidden_size": 64,
            "intermediate_size": 128,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "bos_token_id": None,
            "eos_token_id": token_id("<|im_end|>"),
            "pad_token_id": token_id("<|endoftext|>"),
            # the sections share out half of a head's 16 dimensions: time, height, width
            "rope_parameters": {
                "rope_type": "default",
                "rope_theta": 1e6,
                "mrope_section": [2, 3, 3],
            },
        },
        vision_config={
            "depth": 2,
            "hidden_size": 32,
            "intermediate_size": 64,
            "num_heads": 2,
            "out_hidden_size": 64,
            "fullatt_block_indexes": [1],
        },
        image_token_id=token_id("<|image_pad|>"),
        video_token_id=token_id("<|video_pad|>"),
        vision_start_token_id=token_id("<|vision_start|>"),
        vision_end_token_id=token_id("<|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config)


def new_vae(shape: VaeShape = DEMO_VAE) -> AutoencoderKLQwenImage:
    """A VAE with diffusers' random weights."""
    return AutoencoderKLQwenImage(
        base_dim=shape.base_dim,
        z_dim=16,
        dim_mult=list(shape.dim_mult),
        num_res_blocks=shape.num_res_blocks,
    )


def new_transformer(
    width: int = 128, layers: int = 4, zero_cond_t: bool = True
) -> QwenImageTransformer2DModel:
    """A small transformer with diffusers' random weights; arguments as in `build`."""
    return QwenImageTransformer2DModel(
        patch_size=2,
        in_channels=64,
        out_channels=16,
        num_layers=layers,
        attention_head_dim=32,
        num_attention_heads=width // 32,
        joint_attention_dim=64,
        axes_dims_rope=(8, 12, 12),
        zero_cond_t=zero_cond_t,
    )


def _amplify(module: nn.Module, gain: float) -> None:
    """Draw larger weights, so that prompt, images and CFG show in the output.

    With the default ones they change no pixel by more than 1 of 255, which tests cannot see.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=gain * layer.in_features**-0.5)


def _name_published_classes(path: Path, image_processor: dict[str, object]) -> None:
    """Write the class names of a published folder instead of our image-only processor's."""
    index_file = path / "model_index.json"
    index = json.loads(index_file.read_text())
    index["processor"] = ["transformers", "Qwen2VLProcessor"]
    index_file.write_text(json.dumps(index, indent=2) + "\n")
    folder = path / "processor"
    (folder / "processor_config.json").unlink(missing_ok=True)
    common = {**image_processor, "processor_class": "Qwen2VLProcessor"}
    for name, kind in (
        ("preprocessor_config.json", {"image_processor_type": "Qwen2VLImageProcessor"}),
        ("video_preprocessor_config.json", {"video_processor_type": "Qwen2VLVideoProcessor"}),
    ):
        (folder / name).write_text(json.dumps({**common, **kind}, indent=2) + "\n")
