"""Qwen-Image-Edit-Plus: Qwen-Image-Edit-2509, -2511 and models merged from them.

Source of the numbers: the configurations and weights at https://huggingface.co/Qwen, and diffusers'
QwenImageEditPlusPipeline. `zero_cond_t`, in which the checkpoints differ, is a key of the
transformer's own configuration and needs no setting here.
"""

from collections.abc import Mapping

from pipelines.api.families.family import LoraMarks, ModelFamily, whole
from pipelines.api.families.qwen2_5_vl import text_linears
from pipelines.api.model_spec import ModelSpec
from pipelines.api.params import MAX_REFERENCES
from pipelines.api.sizes import SizeRules

NAME = "qwen_image_edit_plus"

_TRANSFORMER: Mapping[str, int] = {
    "num_layers": 60,
    "num_attention_heads": 24,
    "attention_head_dim": 128,
    "joint_attention_dim": 3584,
    "in_channels": 64,
    "out_channels": 16,
    "patch_size": 2,
}
_TIME_CHANNELS = 256
_MLP_RATIO = 4


def linears(config: Mapping[str, object]) -> dict[str, tuple[int, int]]:
    """The linear layers of a QwenImageTransformer2DModel with this `config.json`.

    Raises TypeError for a value that is not a whole number.
    """
    values = {key: whole(config.get(key, default)) for key, default in _TRANSFORMER.items()}
    inner = values["num_attention_heads"] * values["attention_head_dim"]
    layers = {
        "img_in": (inner, values["in_channels"]),
        "txt_in": (inner, values["joint_attention_dim"]),
        "time_text_embed.timestep_embedder.linear_1": (inner, _TIME_CHANNELS),
        "time_text_embed.timestep_embedder.linear_2": (inner, inner),
    }
    block = _block_linears(inner)
    for index in range(values["num_layers"]):
        for name, features in block.items():
            layers[f"transformer_blocks.{index}.{name}"] = features
    layers["norm_out.linear"] = (2 * inner, inner)
    layers["proj_out"] = (values["patch_size"] ** 2 * values["out_channels"], inner)
    return layers


def _block_linears(inner: int) -> dict[str, tuple[int, int]]:
    attention = ("to_q", "to_k", "to_v", "add_q_proj", "add_k_proj", "add_v_proj")
    block = {f"attn.{name}": (inner, inner) for name in (*attention, "to_out.0", "to_add_out")}
    for stream in ("img", "txt"):
        block[f"{stream}_mod.1"] = (6 * inner, inner)
        block[f"{stream}_mlp.net.0.proj"] = (_MLP_RATIO * inner, inner)
        block[f"{stream}_mlp.net.2"] = (inner, _MLP_RATIO * inner)
    return block


def lightning(config: Mapping[str, object]) -> dict[int, str]:
    """The published Lightning LoRAs for the checkpoint with this `config.json`."""
    # the one key in which the two differ
    name = "Qwen-Image-Edit-2511" if config.get("zero_cond_t") else "Qwen-Image-Edit-2509"
    folder = {
        "Qwen-Image-Edit-2511": "lightx2v/Qwen-Image-Edit-2511-Lightning",
        "Qwen-Image-Edit-2509": "lightx2v/Qwen-Image-Lightning/Qwen-Image-Edit-2509",
    }[name]
    return {
        steps: f"{folder}/{name}-Lightning-{steps}steps-V1.0-bf16.safetensors" for steps in (4, 8)
    }


QWEN_IMAGE_EDIT_PLUS = ModelFamily(
    name=NAME,
    title="Qwen-Image-Edit-Plus",
    pipeline_class="QwenImageEditPlusPipeline",
    weight_stems={
        "transformer": "diffusion_pytorch_model",
        "text_encoder": "model",
        "vae": "diffusion_pytorch_model",
    },
    spec=ModelSpec(
        name="published",
        family=NAME,
        reference_area=1024 * 1024,
        condition_area=384 * 384,
        output_area=1024 * 1024,
        num_inference_steps=40,
        true_cfg_scale=4.0,
        can_write=True,
    ),
    # The VAE reduces 8 times, the transformer packs 2×2. `calculate_dimensions` of the pipeline
    # rounds to 32; its rounding decides the token grid and so must be met exactly.
    sizes=SizeRules(pixels_per_token=16, area_multiple=32),
    # More run, but the models were trained with at most as many as a request may have.
    max_references=MAX_REFERENCES,
    # RoPE ends at 4,096 positions; the template and three images take about 800 of them.
    max_prompt_tokens=2048,
    linears=linears,
    text_linears=text_linears,
    parameters={
        "transformer": 20_430_401_088,
        "text_encoder": 8_292_166_656,
        "vae": 126_900_000,
    },
    lightning=lightning,
    checkpoints={year: f"Qwen/Qwen-Image-Edit-{year}" for year in ("2509", "2511")},
    lora_marks=LoraMarks(
        name="Qwen-Image",
        pattern=r"transformer_blocks[._]\d+[._](attn[._](add_[qkv]_proj|to_add)|(img|txt)_m)",
    ),
)
