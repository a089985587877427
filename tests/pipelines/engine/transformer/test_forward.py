"""The forward of our own gives the bits of diffusers' transformer."""

import itertools
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from diffusers import QwenImageTransformer2DModel

from pipelines.engine.families.family import ForwardInputs, Grid, References
from pipelines.engine.lora import LoraEngine
from pipelines.engine.transformer.forward import FastForward
from tests.pipelines.engine.lora.corpus_layouts import LAYOUTS
from tests.pipelines.engine.lora.test_terms import MIXES, written
from tests.pipelines.engine.transformer.stock import stock_velocity

CPU = torch.device("cpu")
TEXT_WIDTH = 256
SIZES = ((6, 8), (10, 7), (16, 16))
LENGTHS = (9, 64, 131)
TIMESTEPS = (1.0, 0.37)
DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def build(
    dtype: torch.dtype = torch.float32, *, zero_cond_t: bool = True, head_width: int = 128
) -> QwenImageTransformer2DModel:
    """A transformer whose biases, norms and modulations all matter."""
    torch.manual_seed(0)
    model = QwenImageTransformer2DModel(
        num_layers=2,
        attention_head_dim=head_width,
        num_attention_heads=2,
        joint_attention_dim=TEXT_WIDTH,
        axes_dims_rope=(head_width // 4, head_width * 3 // 8, head_width * 3 // 8),
        zero_cond_t=zero_cond_t,
    ).eval()
    for parameter in model.parameters():
        deviation = 1.5 * parameter.shape[1] ** -0.5 if parameter.dim() == 2 else 0.3
        torch.nn.init.normal_(parameter, std=deviation)
    return model.to(dtype)


def inputs(
    size: tuple[int, int], references: int, length: int, timestep: float, dtype: torch.dtype
) -> ForwardInputs:
    grid: Grid = (1, *size)
    grids = tuple((1, 5 + index, 9 - index) for index in range(references))
    generator = torch.Generator().manual_seed(length)

    def random(count: int, width: int) -> torch.Tensor:
        return torch.randn(1, count, width, generator=generator).to(dtype)

    return ForwardInputs(
        random(math.prod(grid), 64),
        torch.tensor([timestep]).to(dtype),
        step=0,
        grid=grid,
        prompt_embeds=random(length, TEXT_WIDTH),
        references=References(random(sum(map(math.prod, grids)), 64), grids),
    )


def fast(forward: FastForward, inputs: ForwardInputs) -> torch.Tensor:
    modulation = forward.modulations.compute(inputs.timestep, inputs.latents.dtype)
    return forward.velocity(inputs, modulation)


@pytest.fixture(autouse=True)
def _no_grad() -> Iterator[None]:
    with torch.no_grad():
        yield


@pytest.mark.parametrize("zero_cond_t", [True, False])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_velocity_has_the_bits_of_stock(dtype: torch.dtype, zero_cond_t: bool) -> None:
    model = build(dtype, zero_cond_t=zero_cond_t)
    cases = list(itertools.product(SIZES, (1, 2, 3), LENGTHS, TIMESTEPS))
    # before the projections are fused, and after
    expected = [stock_velocity(model, inputs(*case, dtype)) for case in cases]
    forward = FastForward(model)

    for case, velocity in zip(cases, expected, strict=True):
        given = inputs(*case, dtype)
        assert torch.equal(fast(forward, given), velocity), case
        assert torch.equal(stock_velocity(model, given), velocity), case


@pytest.mark.parametrize(
    ("dtype", "most"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)], ids=str
)
@pytest.mark.parametrize("zero_cond_t", [True, False])
def test_pruned_last_block_rounds_differently_only(
    dtype: torch.dtype, most: float, zero_cond_t: bool
) -> None:
    model = build(dtype, zero_cond_t=zero_cond_t)
    forward = FastForward(model, prunes_last_block=True)
    for case in itertools.product(SIZES, (1, 3), LENGTHS[:2], TIMESTEPS[:1]):
        given = inputs(*case, dtype)
        expected = stock_velocity(model, given).float()
        error = (fast(forward, given).float() - expected).norm()
        assert error <= most * expected.norm(), case


def test_fused_projections_add_no_memory_and_keep_the_state_dict() -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    FastForward(model)

    after = model.state_dict()
    assert list(after) == list(before)
    assert all(torch.equal(after[name], before[name]) for name in before)
    attention = model.transformer_blocks[0].attn
    storages = {
        getattr(attention, name).weight.untyped_storage().data_ptr()
        for name in ("to_q", "to_k", "to_v")
    }
    assert len(storages) == 1
    weight = attention.to_q.weight
    assert weight.untyped_storage().nbytes() == 3 * weight.nbytes


ALONE = ("every linear layer", "fused projections", "whole weights")
MIXED = {**{name: (LAYOUTS[name],) for name in ALONE}, **MIXES}


@pytest.mark.parametrize("mix", MIXED)
def test_loras_of_every_kind_change_it_as_they_change_stock(tmp_path: Path, mix: str) -> None:
    model = build(head_width=32)
    engine = LoraEngine(model, CPU, torch.float32)
    forward = FastForward(model)
    stack, _ = written(MIXED[mix], tmp_path, engine.linears)
    given = inputs((6, 8), 2, 9, 0.37, torch.float32)
    base = fast(forward, given)

    with engine.active(stack):
        expected = stock_velocity(model, given)
        found = fast(forward, given)

    assert not torch.allclose(found, base, rtol=1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert torch.equal(fast(forward, given), base)


def test_forward_never_waits_for_the_device(monkeypatch: pytest.MonkeyPatch) -> None:
    forward = FastForward(build())
    given = inputs((6, 8), 2, 9, 0.37, torch.float32)
    fast(forward, given)  # positions of new shapes are computed once

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("this waits for the device, or copies from the host")

    for name in ("item", "tolist", "cpu", "numpy", "nonzero", "__bool__", "__int__", "__float__"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    for name in ("tensor", "as_tensor", "from_numpy"):
        monkeypatch.setattr(torch, name, refuse)
    fast(forward, given)


def test_modulations_are_kept_for_a_schedule_and_for_loras(tmp_path: Path) -> None:
    model = build(head_width=32)
    engine = LoraEngine(model, CPU, torch.float32)
    table = FastForward(model).modulations
    sigmas, timestep = (1.0, 0.5), torch.tensor([0.5])
    stack, _ = written((LAYOUTS["every linear layer"],), tmp_path, engine.linears)

    first = table.of(sigmas, torch.float32).at(1, timestep)
    with engine.active(stack):
        changed = table.of(sigmas, torch.float32).at(1, timestep)
    again = table.of(sigmas, torch.float32).at(1, timestep)
    other = table.of((1.0, 0.4), torch.float32).at(1, timestep)

    assert again is first
    assert other is not first
    rows = [found.blocks[0].image_attention[0].shift for found in (changed, first)]
    assert not torch.equal(*rows)
    assert torch.equal(first.out[0], other.out[0])


def test_layer_with_other_weights_counts_with_them() -> None:
    model = build()
    forward = FastForward(model)
    given = inputs((6, 8), 1, 9, 0.37, torch.float32)
    before = fast(forward, given)
    layer = model.transformer_blocks[0].attn.to_k
    layer.weight.data = layer.weight.data * 1.5

    found = fast(forward, given)

    assert torch.equal(found, stock_velocity(model, given))
    assert not torch.equal(found, before)
