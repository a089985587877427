"""Under torch.compile, LoRAs of any rank on any layers reuse the graphs of the first ones."""

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from torch._dynamo.utils import counters

from pipelines.engine.lora import LoraEngine
from tests.lora_files import random_pairs, write_lora
from tests.pipelines.engine.lora.conftest import CPU

Stack = Sequence[tuple[Path, float]]
STACKS = 20


@dataclass
class CountingBackend:
    """Run traced graphs without compiling them, and count them."""

    graphs: list[torch.fx.GraphModule] = field(default_factory=list)

    def __call__(
        self, graph: torch.fx.GraphModule, example_inputs: Sequence[torch.Tensor]
    ) -> Callable[..., object]:
        self.graphs.append(graph)
        return graph.forward


@pytest.fixture
def dynamo() -> Iterator[None]:
    """Start without compiled graphs, and leave none."""
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()
    counters.clear()


def build() -> QwenImageTransformer2DModel:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = QwenImageTransformer2DModel(
            num_layers=3,
            attention_head_dim=32,
            num_attention_heads=2,
            joint_attention_dim=64,
            axes_dims_rope=(8, 12, 12),
        )
    return model.eval()


def forward(model: QwenImageTransformer2DModel, turn: int = 0) -> torch.Tensor:
    """A step; the text's length and the image's width differ from turn to turn.

    No number of tokens here equals another of the model's sizes: torch would treat equal numbers at
    the first call as the same one, which costs the base model a graph, too.
    """
    generator = torch.Generator().manual_seed(turn)
    rows, columns, text = 6, 10 + 2 * (turn % 3), 9 + turn
    with torch.no_grad():
        result: torch.Tensor = model(
            hidden_states=torch.randn(1, 2 * rows * columns, 64, generator=generator),
            encoder_hidden_states=torch.randn(1, text, 64, generator=generator),
            encoder_hidden_states_mask=None,
            timestep=torch.tensor([0.5]),
            img_shapes=[[(1, rows, columns), (1, rows, columns)]],
            return_dict=False,
        )[0]
    return result


def write_stacks(folder: Path, engine: LoraEngine) -> list[Stack]:
    """Stacks of one to three files of ranks 1 to 64, each on other layers."""
    choose = random.Random(0)
    names = list(engine.linears)
    stacks = []
    for turn in range(STACKS):
        files = []
        for index in range(1 + turn % 3):
            rank = (1, 2, 3, 5, 8, 16, 64)[(turn + 2 * index) % 7]
            modules = choose.sample(names, choose.randint(1, len(names)))
            pairs = random_pairs(engine.linears, modules, rank=rank, seed=turn)
            path = write_lora(folder / f"{turn}-{index}.safetensors", pairs)
            files.append((path, choose.choice((0.05, 0.1, 0.2))))
        stacks.append(files)
    return stacks


def warm_up(
    model: QwenImageTransformer2DModel, engine: LoraEngine, folder: Path, rank: int
) -> None:
    pairs = random_pairs(engine.linears, list(engine.linears), rank=rank)
    path = write_lora(folder / "warm-up.safetensors", pairs)
    forward(model)
    with engine.active([(path, 1.0)]):
        forward(model)


@pytest.mark.usefixtures("dynamo")
@pytest.mark.parametrize(
    "first_rank",
    [1, *(pytest.param(rank, marks=pytest.mark.complete) for rank in (4, 64))],
)
def test_compiled_blocks_are_not_traced_again_over_20_stacks(
    tmp_path: Path, first_rank: int
) -> None:
    """Ranks 1 and 64 are traps at warm-up: torch treats 1 and equal sizes as constants."""
    model, backend = build(), CountingBackend()
    engine = LoraEngine(model, CPU, torch.float32)
    model.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=backend)
    warm_up(model, engine, tmp_path, first_rank)
    graphs, stats = len(backend.graphs), dict(counters["stats"])

    for turn, stack in enumerate(write_stacks(tmp_path, engine)):
        with engine.active(stack):
            forward(model, turn)
        forward(model, turn)

    assert len(backend.graphs) == graphs
    # the first block's input is a view, which is a graph of its own: two without, two with LoRAs
    assert graphs == 4
    assert dict(counters["stats"]) == stats
    assert stats["unique_graphs"] == graphs
    assert not counters["graph_break"]


@pytest.mark.usefixtures("dynamo")
def test_compiled_blocks_equal_eager_ones(tmp_path: Path) -> None:
    compiled, eager = build(), build()
    engines = [LoraEngine(model, CPU, torch.float32) for model in (compiled, eager)]
    compiled.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=CountingBackend())
    warm_up(compiled, engines[0], tmp_path, rank=4)

    for turn, stack in enumerate(write_stacks(tmp_path, engines[0])):
        base = forward(eager, turn)
        with engines[0].active(stack), engines[1].active(stack):
            ours, theirs = forward(compiled, turn), forward(eager, turn)
        assert (ours - theirs).norm() <= 1e-5 * theirs.norm()
        assert not torch.equal(theirs, base)
        assert (forward(compiled, turn) - base).norm() <= 1e-5 * base.norm()


@pytest.mark.usefixtures("dynamo")
def test_compiled_base_model_is_the_same_bit_for_bit_after_a_lora(tmp_path: Path) -> None:
    model = build()
    engine = LoraEngine(model, CPU, torch.float32)
    model.compile_repeated_blocks(fullgraph=True, dynamic=True, backend=CountingBackend())
    before = forward(model)

    warm_up(model, engine, tmp_path, rank=4)

    assert torch.equal(before, forward(model))
