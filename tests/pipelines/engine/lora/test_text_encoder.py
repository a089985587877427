"""LoRAs that change the text encoder, whose oracles are merged weights and PEFT."""

import copy
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import save_file

from pipelines.api.errors import LoraInvalid
from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS, TEXT_ENCODER
from pipelines.engine.lora import read_lora
from pipelines.engine.pipeline import EditPipeline
from pipelines.files.lora_format.report import inspect_lora
from tests.conftest import gradient
from tests.lora_files import Linears, Pair, lora_tensors, random_pairs, write_lora
from tests.pipelines.engine.lora.conftest import edit

LANGUAGE = "text_encoder.model.language_model.layers"
LAYERS = (
    f"{LANGUAGE}.0.self_attn.q_proj",
    f"{LANGUAGE}.1.self_attn.v_proj",
    f"{LANGUAGE}.1.mlp.down_proj",
    "text_encoder.model.visual.blocks.0.attn.qkv",
    "text_encoder.model.visual.merger.mlp.2",
)
# The layers' names in files: what tools put before them, and whether underscores join them.
SPELLINGS = (
    ("text_encoder.model.language_model.", False),
    ("text_encoder.model.", False),
    ("text_encoder.", False),
    ("text_encoder.base_model.model.model.language_model.", False),
    ("base_model.model.text_encoder.model.", False),
    ("text_encoders.qwen25_7b.transformer.model.", False),
    ("te.", False),
    ("te1.model.language_model.", False),
    ("lora_te_", True),
    ("lora_te1_model_layers_", True),
    ("lora_te_model_language_model_", True),
)


def renamed(pairs: dict[str, Pair], prefix: str) -> dict[str, Pair]:
    """The pairs by the names that a tool writes after its prefix."""
    names = {}
    for name, pair in pairs.items():
        tail = name.removeprefix(TEXT_ENCODER).removeprefix("model.")
        tail = tail.removeprefix("language_model.")
        names[tail.removeprefix("layers.") if prefix.endswith("layers_") else tail] = pair
    return names


def prompt_embeddings(pipeline: EditPipeline) -> torch.Tensor:
    family, spec = pipeline._model.family, pipeline.spec
    with torch.no_grad():
        return family.encode_prompt(pipeline._pipe, "a", [gradient()], spec.condition_area)


def with_lora(pipeline: EditPipeline, *stack: tuple[Path, float]) -> torch.Tensor:
    with pipeline._loras.active(stack):
        return prompt_embeddings(pipeline)


@contextmanager
def merged(pipeline: EditPipeline, *stack: tuple[dict[str, Pair], float]) -> Iterator[None]:
    """Change the weights themselves inside the block."""
    before = {}
    with torch.no_grad():
        for pairs, scale in stack:
            for name, pair in pairs.items():
                weight = pipeline._pipe.text_encoder.get_parameter(
                    name.removeprefix(TEXT_ENCODER) + ".weight"
                )
                before.setdefault(name, (weight, weight.clone()))
                weight += scale * pair.delta.to(weight.dtype)
    try:
        yield
    finally:
        for weight, value in before.values():
            weight.data.copy_(value)


def test_layers_from_the_configuration_are_those_of_the_model(
    pipeline: EditPipeline, linears: Linears
) -> None:
    assert pipeline.linears == linears
    assert set(LAYERS) < set(linears)


def test_published_configuration_gives_the_published_number_of_parameters() -> None:
    layers = QWEN_IMAGE_EDIT_PLUS.text_linears({})
    weights = sum(out * into for out, into in layers.values())
    # the language model has biases for queries, keys and values only
    biases = sum(
        out
        for name, (out, _) in layers.items()
        if "visual" in name or name.endswith(("q_proj", "k_proj", "v_proj"))
    )
    embeddings, patches = 2 * 152_064 * 3584, 3 * 2 * 14 * 14 * 1280
    norms = (2 * 28 + 1) * 3584 + (2 * 32 + 1) * 1280
    total = weights + biases + embeddings + patches + norms

    assert total == QWEN_IMAGE_EDIT_PLUS.parameters["text_encoder"]


@pytest.mark.parametrize(("prefix", "flat"), SPELLINGS)
def test_each_spelling_names_the_same_layers(
    linears: Linears, tmp_path: Path, prefix: str, flat: bool
) -> None:
    layers = LAYERS[:3] if prefix.endswith(("language_model.", "layers_", "model_")) else LAYERS
    pairs = random_pairs(linears, layers)
    path = write_lora(tmp_path / "a.safetensors", renamed(pairs, prefix), prefix=prefix, flat=flat)

    assert set(read_lora(path, linears).plan.layers) == set(layers)


def test_embeddings_are_those_of_merged_weights(pipeline: EditPipeline, tmp_path: Path) -> None:
    first, second = (random_pairs(pipeline.linears, LAYERS, seed=seed) for seed in (1, 2))
    stack = [
        (write_lora(tmp_path / f"{index}.safetensors", pairs, prefix=""), scale)
        for index, (pairs, scale) in enumerate(((first, 0.5), (second, -1.25)))
    ]
    base = prompt_embeddings(pipeline)
    found = with_lora(pipeline, *stack)
    with merged(pipeline, (first, 0.5), (second, -1.25)):
        expected = prompt_embeddings(pipeline)

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert (found - base).norm() > 0.05 * base.norm()
    assert torch.equal(prompt_embeddings(pipeline), base)
    assert torch.equal(with_lora(pipeline, (stack[0][0], 0.0)), base)


# PEFT reads an attribute that transformers deprecates
@pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing:FutureWarning")
def test_embeddings_are_those_of_peft(pipeline: EditPipeline, tmp_path: Path) -> None:
    ours = pipeline._pipe.text_encoder
    config = peft.LoraConfig(
        r=4, lora_alpha=6, target_modules=["q_proj", "down_proj", "attn.qkv"], use_rslora=True
    )
    theirs = peft.get_peft_model(copy.deepcopy(ours), config)
    generator = torch.Generator().manual_seed(0)
    for name, parameter in theirs.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator) * 0.2
    tensors = peft.get_peft_model_state_dict(theirs)
    metadata = {
        "lora_adapter_metadata": json.dumps(
            {f"text_encoder.{key}": value for key, value in config.to_dict().items()},
            default=sorted,
        )
    }
    path = tmp_path / "a.safetensors"
    save_file(
        {f"text_encoder.{key}": value.contiguous() for key, value in tensors.items()},
        path,
        metadata,
    )

    found = with_lora(pipeline, (path, 1.0))
    pipeline._pipe.text_encoder = theirs.merge_and_unload()
    try:
        expected = prompt_embeddings(pipeline)
    finally:
        pipeline._pipe.text_encoder = ours

    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(found, prompt_embeddings(pipeline), atol=1e-2)


def test_one_file_changes_both_components(
    pipeline: EditPipeline, base: np.ndarray, tiny_model: Path, tmp_path: Path
) -> None:
    layers = [*LAYERS, "transformer_blocks.0.attn.to_q"]
    pairs = random_pairs(pipeline.linears, layers)
    text = {name: pair for name, pair in pairs.items() if name.startswith(TEXT_ENCODER)}
    tensors = lora_tensors(text, prefix="")
    tensors |= lora_tensors({layers[-1]: pairs[layers[-1]]})
    both = tmp_path / "both.safetensors"
    save_file(tensors, both)
    alone = write_lora(tmp_path / "alone.safetensors", {layers[-1]: pairs[layers[-1]]})

    report = inspect_lora(both, pipeline.linears, both.name)
    assert report.shown_layers == "6 (5 in the text encoder)"
    images = [edit(pipeline, (path, 1.0)) for path in (both, alone)]
    other = EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32)
    with merged(other, (text, 1.0)):
        expected = edit(other, (alone, 1.0))

    assert np.abs(images[0] - expected).max() <= 1
    assert not np.array_equal(*images)
    assert not np.array_equal(images[1], base)


def test_components_have_their_own_strengths(linears: Linears, tmp_path: Path) -> None:
    layers = [LAYERS[0], "transformer_blocks.0.attn.to_q"]
    tensors = lora_tensors(random_pairs(linears, layers[:1]), prefix="")
    tensors |= lora_tensors(random_pairs(linears, layers[1:]))
    path = tmp_path / "a.safetensors"
    config = {
        "transformer.r": 4, "transformer.lora_alpha": 8, "text_encoder.r": 4,
        "text_encoder.lora_alpha": 2,
    }  # fmt: skip
    save_file(tensors, path, {"lora_adapter_metadata": json.dumps(config)})

    assert read_lora(path, linears).multipliers == {layers[0]: 0.5, layers[1]: 2.0}


@pytest.mark.parametrize("prefix", ["model.", "base_model.model.model.language_model.", ""])
def test_lora_of_a_language_model_is_refused(linears: Linears, tmp_path: Path, prefix: str) -> None:
    """It has the text encoder's names, and was trained to write."""
    pairs = renamed(random_pairs(linears, LAYERS[:2]), prefix)
    path = write_lora(tmp_path / "chat.safetensors", pairs, prefix=prefix)

    with pytest.raises(LoraInvalid, match="not a LoRA for this model"):
        read_lora(path, linears)
