"""A LoRA's configuration has the same meaning as in PEFT, whose own code is the oracle."""

import copy
import json
from pathlib import Path

import peft
import pytest
import torch
from diffusers import QwenImageTransformer2DModel
from peft.utils.other import get_pattern_key
from safetensors.torch import load_file, save_file

from pipelines.engine.lora import LoraEngine
from pipelines.files.lora_format.config import LoraConfig, compile_patterns, read_config
from tests.lora_files import Linears, adapter_metadata, random_pairs, write_lora
from tests.pipelines.engine.lora.conftest import CPU, MODULES, assert_exact, deltas

LAYERS = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.to_out.0",
    "transformer_blocks.1.attn.to_q",
    "transformer_blocks.11.img_mod.1",
    "img_in",
)
PATTERNS = (
    {"to_q": 8.0},
    {"attn.to_q": 8.0, "to_q": 2.0},
    {"q": 8.0},
    {"o_q": 8.0},
    {"^img_in": 8.0},
    {"^to_q": 8.0},
    {r".*\.attn\..*": 8.0},
    {r"transformer_blocks\.1\.attn\.to_q": 8.0},
    {"transformer_blocks.1.attn.to_q": 8.0},
    {r"transformer_blocks\.\d+\.img_mod\.1": 8.0, "img_in": 3.0},
    {"to_q|to_out.0": 8.0},
    {"1": 8.0},
    {"": 8.0},
)
PEFT_CONFIGS = {
    "plain": {"r": 4, "lora_alpha": 6},
    "rsLoRA": {"r": 16, "lora_alpha": 6, "use_rslora": True},
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "rank_pattern": {"attn.to_q": 2, r"^transformer_blocks\.1\.attn\.to_k": 6},
        "alpha_pattern": {"to_q": 3, r".*_mod\.1": 5},
    },
    "patterns of rsLoRA": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "rank_pattern": {"to_k": 9},
        "alpha_pattern": {r"transformer_blocks\.0\..*": 3},
    },
}


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_pattern_matches_as_peft_matches_it(patterns: dict[str, float], layer: str) -> None:
    compiled = compile_patterns(patterns)
    config = LoraConfig(rank=4, alpha=1.0, rank_patterns=compiled, alpha_patterns=compiled)
    key = get_pattern_key(list(patterns), layer)

    assert config.rank_of(layer) == patterns.get(key, 4)
    assert config.alpha_of(layer) == patterns.get(key, 1.0)


@pytest.fixture
def transformer() -> QwenImageTransformer2DModel:
    """A small transformer with two layers."""
    return QwenImageTransformer2DModel(
        num_layers=2,
        attention_head_dim=32,
        num_attention_heads=2,
        joint_attention_dim=64,
        axes_dims_rope=(8, 12, 12),
    )


def lora_config(name: str) -> peft.LoraConfig:
    return peft.LoraConfig(
        target_modules=["to_q", "to_k", "img_mod.1", "proj_out"],
        init_lora_weights=False,
        **PEFT_CONFIGS[name],
    )


def saved_by_peft(
    transformer: QwenImageTransformer2DModel, folder: Path, config: peft.PeftConfig
) -> dict[str, torch.Tensor]:
    """Save an adapter with PEFT and return the changes that PEFT computes for it."""
    adapted = peft.get_peft_model(transformer, config)
    adapted.save_pretrained(folder)
    return {
        name.removeprefix("base_model.model."): layer.get_delta_weight("default").double()
        for name, layer in adapted.named_modules()
        if hasattr(layer, "get_delta_weight")
    }


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("prefix", ["base_model.model.", "diffusion_model."])
@pytest.mark.parametrize("rank", [3, 10**6])
@pytest.mark.parametrize("kind", [peft.LoKrConfig, peft.LoHaConfig])
def test_lokr_and_loha_of_peft_are_scaled_as_peft_scales_them(
    transformer: QwenImageTransformer2DModel,
    tmp_path: Path,
    kind: type[peft.LoKrConfig],
    rank: int,
    prefix: str,
) -> None:
    """Unlike LyCORIS, PEFT also scales two whole matrices; some trainers rename the keys."""
    if kind is peft.LoHaConfig:
        rank = min(rank, 20)
    config = kind(r=rank, alpha=8, target_modules=["to_q", "img_mod.1"], init_weights=False)
    linears = linears_of(transformer)
    expected = saved_by_peft(transformer, tmp_path, config)
    path = tmp_path / "adapter_model.safetensors"
    renamed = {
        key.replace("base_model.model.", prefix): value for key, value in load_file(path).items()
    }
    save_file(renamed, path)

    assert_exact(deltas(linears, [(path, 1.0)]), expected, 1e-5)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
def test_dora_of_peft_gives_the_outputs_of_peft(
    transformer: QwenImageTransformer2DModel, tmp_path: Path
) -> None:
    config = peft.LoraConfig(
        r=4, lora_alpha=6, use_dora=True, target_modules=["to_q", "img_mod.1"],
        init_lora_weights=False,
    )  # fmt: skip
    ours = copy.deepcopy(transformer)
    adapted = peft.get_peft_model(transformer, config)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "magnitude" in name:
                parameter *= 1.5
    adapted.save_pretrained(tmp_path)
    engine = LoraEngine(ours, CPU, torch.float32)
    names = [name for name in engine.linears if name.endswith(("to_q", "img_mod.1"))]

    with torch.no_grad(), engine.active([(tmp_path / "adapter_model.safetensors", 1.0)]):
        for name in names:
            x = torch.randn(2, 5, engine.linears[name][1])
            expected = adapted.get_submodule(f"base_model.model.{name}")(x)
            assert (ours.get_submodule(name)(x) - expected).norm() <= 1e-5 * expected.norm()
    assert len(names) == 4


def linears_of(transformer: torch.nn.Module) -> Linears:
    return {
        name: (layer.out_features, layer.in_features)
        for name, layer in transformer.named_modules()
        if type(layer) is torch.nn.Linear
    }


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("config", PEFT_CONFIGS)
def test_adapter_of_peft_with_its_configuration_beside_it_is_read_exactly(
    transformer: QwenImageTransformer2DModel, tmp_path: Path, config: str
) -> None:
    linears = linears_of(transformer)
    expected = saved_by_peft(transformer, tmp_path, lora_config(config))

    found = deltas(linears, [(tmp_path / "adapter_model.safetensors", 1.0)])

    assert len(expected) == 7
    assert_exact(found, expected, 1e-6)


@pytest.mark.filterwarnings("ignore::UserWarning:peft")
@pytest.mark.parametrize("config", PEFT_CONFIGS)
def test_configuration_of_peft_in_the_metadata_is_read_exactly(
    transformer: QwenImageTransformer2DModel, tmp_path: Path, config: str
) -> None:
    linears = linears_of(transformer)
    expected = saved_by_peft(transformer, tmp_path / "peft", lora_config(config))
    written = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    named = {f"transformer.{key}": value for key, value in written.items()}
    save_file(
        load_file(tmp_path / "peft" / "adapter_model.safetensors"),
        tmp_path / "a.safetensors",
        {"lora_adapter_metadata": json.dumps(named)},
    )

    found = deltas(linears, [(tmp_path / "a.safetensors", 1.0)])

    assert_exact(found, expected, 1e-6)


def test_configuration_beside_a_file_of_another_name_is_ignored(
    linears: Linears, tmp_path: Path
) -> None:
    (tmp_path / "adapter_config.json").write_text('{"r": 4, "lora_alpha": 400}')
    pairs = random_pairs(linears, MODULES)
    path = write_lora(tmp_path / "other.safetensors", pairs)

    assert_exact(deltas(linears, [(path, 1.0)]), {n: p.delta for n, p in pairs.items()}, 5e-7)


def test_alpha_in_the_file_overrides_the_metadata(linears: Linears, tmp_path: Path) -> None:
    pairs = random_pairs(linears, MODULES[:1], alpha=2.0)
    path = write_lora(tmp_path / "a.safetensors", pairs)
    tensors = load_file(path)
    save_file(tensors, path, adapter_metadata(4, 400.0))

    assert_exact(deltas(linears, [(path, 1.0)]), {n: p.delta for n, p in pairs.items()}, 5e-7)


def test_alpha_in_the_metadata_counts(linears: Linears, tmp_path: Path) -> None:
    pairs = random_pairs(linears, MODULES, rank=4, alpha=8.0)
    metadata = adapter_metadata(rank=4, alpha=8.0)
    path = write_lora(tmp_path / "a.safetensors", pairs, metadata=metadata)

    assert_exact(deltas(linears, [(path, 1.0)]), {n: p.delta for n, p in pairs.items()}, 5e-7)


def test_lora_without_a_configuration_has_multiplier_1(tmp_path: Path) -> None:
    config = read_config(tmp_path / "a.safetensors", {"format": "pt"}, "a")

    assert config == LoraConfig()
    assert config.multiplier(None, 16) == 1.0
    assert config.multiplier(8.0, 16) == 0.5
    assert LoraConfig(is_rslora=True).multiplier(8.0, 16) == 2.0


def test_text_encoder_has_a_configuration_of_its_own(tmp_path: Path) -> None:
    text = json.dumps({"text_encoder.lora_alpha": 9, "transformer.lora_alpha": 3})
    config = read_config(tmp_path / "a.safetensors", {"lora_adapter_metadata": text}, "a")
    assert config.of("transformer_blocks.0.attn.to_q").alpha == 3
    assert config.of("text_encoder.model.language_model.layers.0.self_attn.q_proj").alpha == 9
