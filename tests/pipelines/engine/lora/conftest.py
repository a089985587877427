"""A model, its layers, and the engine's change of each weight, for all LoRA tests."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.api.families import TEXT_ENCODER
from pipelines.api.params import EditParams, LoraRef
from pipelines.engine.lora import LayerChange, compose, read_lora
from pipelines.engine.pipeline import EditPipeline
from pipelines.files.architecture import read_linears
from tests.conftest import gradient
from tests.lora_files import Linears

CPU = torch.device("cpu")
# Attention, modulation and MLP of both streams, input and output layers, the time embedding.
MODULES = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.add_k_proj",
    "transformer_blocks.0.attn.to_out.0",
    "transformer_blocks.0.attn.to_add_out",
    "transformer_blocks.0.img_mlp.net.0.proj",
    "transformer_blocks.0.txt_mlp.net.2",
    "transformer_blocks.0.img_mod.1",
    "transformer_blocks.0.txt_mod.1",
    "img_in",
    "txt_in",
    "time_text_embed.timestep_embedder.linear_1",
    "norm_out.linear",
    "proj_out",
)


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> EditPipeline:
    return EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32)


@pytest.fixture(scope="session")
def linears(tiny_model: Path) -> Linears:
    """The tiny model's layers, without the model."""
    return read_linears(tiny_model)


@pytest.fixture
def base(pipeline: EditPipeline) -> Iterator[np.ndarray]:
    """The base model's image, which must be the same bit for bit after the test."""
    before = edit(pipeline)
    yield before
    assert np.array_equal(before, edit(pipeline))


def edit_params(*loras: tuple[Path, float]) -> EditParams:
    refs = tuple(LoraRef(str(path), scale) for path, scale in loras)
    return EditParams(prompt="a", seed=1, size=(256, 256), loras=refs)


def edit(pipeline: EditPipeline, *loras: tuple[Path, float]) -> np.ndarray:
    result = pipeline.edit(edit_params(*loras), [gradient()])
    return np.asarray(result.images[0], dtype=np.int16)


def layer_of(pipeline: EditPipeline, name: str) -> torch.nn.Linear:
    """The layer that the engine knows by this name."""
    if name.startswith(TEXT_ENCODER):
        return pipeline._pipe.text_encoder.get_submodule(name.removeprefix(TEXT_ENCODER))
    return pipeline._pipe.transformer.get_submodule(name)


def base_weight(name: str, features: tuple[int, int]) -> torch.Tensor:
    """A weight with columns of unit norm, the same for the same layer, exact in bf16."""
    generator = torch.Generator().manual_seed(sum(map(ord, name)))
    weight = torch.randn(features, generator=generator) * features[0] ** -0.5
    return weight.bfloat16().float()


def deltas(
    linears: Linears, stack: Sequence[tuple[Path, float]], *, on_base: bool = False
) -> dict[str, torch.Tensor]:
    """The change of each layer's weight in the engine, from `base_weight` or from zero."""
    weights = {
        name: base_weight(name, shape) if on_base else torch.zeros(shape)
        for name, shape in linears.items()
    }
    loras = [(read_lora(path, linears), scale) for path, scale in stack]
    adapter = compose(loras, weights.__getitem__, CPU, torch.float32)
    return {
        name: changed_weight(weights[name], change) - weights[name].double()
        for name, change in adapter.items()
    }


def changed_weight(weight: torch.Tensor, change: LayerChange) -> torch.Tensor:
    """The weight with which a changed layer computes."""
    scratch = torch.empty_like(weight).flatten()
    identity = torch.eye(weight.shape[1], dtype=weight.dtype)
    return change.apply(identity, weight, None, scratch).T.double()


def assert_exact(
    found: Mapping[str, torch.Tensor], expected: Mapping[str, torch.Tensor], atol: float = 1e-7
) -> None:
    """Compare changes layer by layer, to 1e-5 relative."""
    assert set(found) == set(expected)
    for name, delta in expected.items():
        torch.testing.assert_close(found[name], delta, rtol=1e-5, atol=atol)
        assert delta.norm() > 0
        assert (found[name] - delta).norm() <= 1e-5 * delta.norm()
