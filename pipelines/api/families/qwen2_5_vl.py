"""The linear layers of Qwen2.5-VL, the text encoder of Qwen-Image-Edit, which sees the images too.

Source of the numbers: `text_encoder/config.json` and the weights at https://huggingface.co/Qwen.
The head, which only writes words, is left out: no prompt embedding passes through it.
"""

from collections.abc import Iterator, Mapping

from pipelines.api.families.family import Linears, whole

_LANGUAGE: Mapping[str, int] = {
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
}
_VISION: Mapping[str, int] = {
    "depth": 32,
    "hidden_size": 1280,
    "intermediate_size": 3420,
    "out_hidden_size": 3584,
    "spatial_merge_size": 2,
}


def text_linears(config: Mapping[str, object]) -> Linears:
    """The linear layers of a Qwen2_5_VLModel with this `config.json`, by (out, in) features.

    The numbers of the language model are in `text_config` or, in older files, at the top level.
    Raises TypeError for a value that is not a whole number.
    """
    language = _numbers(config, "text_config", config, _LANGUAGE)
    vision = _numbers(config, "vision_config", {}, _VISION)
    return dict((*_language(language), *_vision(vision)))


def _language(config: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, int]]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    heads = width // config["num_attention_heads"] * config["num_key_value_heads"]
    for index in range(config["num_hidden_layers"]):
        layer = f"model.language_model.layers.{index}"
        yield f"{layer}.self_attn.q_proj", (width, width)
        yield f"{layer}.self_attn.k_proj", (heads, width)
        yield f"{layer}.self_attn.v_proj", (heads, width)
        yield f"{layer}.self_attn.o_proj", (width, width)
        yield from _mlp(layer, width, inner)


def _vision(config: Mapping[str, int]) -> Iterator[tuple[str, tuple[int, int]]]:
    width, inner = config["hidden_size"], config["intermediate_size"]
    for index in range(config["depth"]):
        block = f"model.visual.blocks.{index}"
        yield f"{block}.attn.qkv", (3 * width, width)
        yield f"{block}.attn.proj", (width, width)
        yield from _mlp(block, width, inner)
    merged = width * config["spatial_merge_size"] ** 2
    yield "model.visual.merger.mlp.0", (merged, merged)
    yield "model.visual.merger.mlp.2", (config["out_hidden_size"], merged)


def _mlp(layer: str, width: int, inner: int) -> Iterator[tuple[str, tuple[int, int]]]:
    yield f"{layer}.mlp.gate_proj", (inner, width)
    yield f"{layer}.mlp.up_proj", (inner, width)
    yield f"{layer}.mlp.down_proj", (width, inner)


def _numbers(
    config: Mapping[str, object],
    part: str,
    otherwise: Mapping[str, object],
    published: Mapping[str, int],
) -> dict[str, int]:
    values = config.get(part, otherwise)
    if not isinstance(values, Mapping):
        raise TypeError(f"expected {part} to be an object, got {values!r}")
    return {key: whole(values.get(key, default)) for key, default in published.items()}
