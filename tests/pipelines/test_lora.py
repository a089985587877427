"""LoRAs change the layers by exactly what their files say, and leave nothing behind."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pipelines.errors import LoraInvalid, LoraNotFound
from pipelines.lora import compose, read_lora
from pipelines.params import EditParams, LoraRef
from pipelines.pipeline import EditPipeline
from tests.conftest import gradient
from tests.lora_files import Pair, adapter_metadata, random_pairs, write_lora

MODULES = (
    "transformer_blocks.0.attn.to_q",
    "transformer_blocks.0.attn.add_k_proj",
    "transformer_blocks.0.attn.to_out.0",
    "transformer_blocks.0.img_mlp.net.0.proj",
    "transformer_blocks.0.img_mod.1",
    "img_in",
    "proj_out",
)


@pytest.fixture(scope="module")
def pipeline(tiny_model: Path) -> EditPipeline:
    return EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32)


def edit(pipeline: EditPipeline, *loras: tuple[Path, float]) -> np.ndarray:
    params = EditParams(
        prompt="a",
        seed=1,
        size=(256, 256),
        loras=tuple(LoraRef(str(path), scale) for path, scale in loras),
    )
    return np.asarray(pipeline.edit(params, [gradient()]).images[0], dtype=np.int16)


def deltas(pipeline: EditPipeline, stack: Sequence[tuple[Path, float]]) -> dict[str, torch.Tensor]:
    """The change of each layer's weight that the engine applies."""
    loras = [(read_lora(path, pipeline.linears), scale) for path, scale in stack]
    adapter = compose(loras, torch.device("cpu"), torch.float32)
    return {name: up.double() @ down.double() for name, (down, up) in adapter.items()}


LAYOUTS = {
    "diffusers": {"prefix": "transformer."},
    "no prefix": {"prefix": ""},
    "ai-toolkit": {"prefix": "diffusion_model."},
    "comfy": {
        "prefix": "model.diffusion_model.",
        "down": ".lora_down.weight",
        "up": ".lora_up.weight",
    },
    "peft": {"prefix": "base_model.model."},
    "diffsynth": {
        "prefix": "pipe.dit.",
        "down": ".lora_A.default.weight",
        "up": ".lora_B.default.weight",
    },
    "kohya": {
        "prefix": "lora_unet_",
        "flat": True,
        "down": ".lora_down.weight",
        "up": ".lora_up.weight",
    },
    "onetrainer": {
        "prefix": "lora_transformer_",
        "flat": True,
        "down": ".lora_down.weight",
        "up": ".lora_up.weight",
    },
    "old diffusers": {
        "prefix": "transformer.",
        "down": ".lora.down.weight",
        "up": ".lora.up.weight",
    },
}


@pytest.mark.parametrize("alpha", [None, 2.0])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_layout_is_read_exactly(
    pipeline: EditPipeline, tmp_path: Path, layout: str, alpha: float | None
) -> None:
    pairs = random_pairs(pipeline.linears, MODULES, rank=4, alpha=alpha)
    path = write_lora(tmp_path / "a.safetensors", pairs, **LAYOUTS[layout])

    found = deltas(pipeline, [(path, 1.5)])

    assert set(found) == set(MODULES)
    for name, pair in pairs.items():
        torch.testing.assert_close(found[name], 1.5 * pair.delta, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float8_e4m3fn])
def test_storage_type_is_read_exactly(
    pipeline: EditPipeline, tmp_path: Path, dtype: torch.dtype
) -> None:
    pairs = random_pairs(pipeline.linears, MODULES, alpha=3.0, dtype=dtype)
    path = write_lora(tmp_path / "a.safetensors", pairs)

    found = deltas(pipeline, [(path, 1.0)])

    for name, pair in pairs.items():
        exact = Pair(pair.down.float(), pair.up.float(), pair.alpha).delta
        torch.testing.assert_close(found[name], exact, rtol=1e-5, atol=1e-7)


def test_alpha_in_the_metadata_counts(pipeline: EditPipeline, tmp_path: Path) -> None:
    pairs = random_pairs(pipeline.linears, MODULES, rank=4, alpha=8.0)
    metadata = adapter_metadata(rank=4, alpha=8.0)
    path = write_lora(tmp_path / "a.safetensors", pairs, metadata=metadata)

    found = deltas(pipeline, [(path, 1.0)])

    for name, pair in pairs.items():
        torch.testing.assert_close(found[name], pair.delta, rtol=1e-5, atol=1e-7)


def test_three_files_add_up(pipeline: EditPipeline, tmp_path: Path) -> None:
    linears = pipeline.linears
    files = []
    for index, (rank, modules) in enumerate([(2, MODULES), (8, MODULES[:4]), (5, MODULES[2:])]):
        pairs = random_pairs(linears, modules, rank=rank, alpha=float(rank), seed=index)
        layout = list(LAYOUTS.values())[index]
        files.append((write_lora(tmp_path / f"{index}.safetensors", pairs, **layout), pairs))
    scales = [0.5, 1.25, 4.0]

    found = deltas(
        pipeline, [(path, scale) for (path, _), scale in zip(files, scales, strict=True)]
    )

    for name in MODULES:
        expected = sum(
            scale * pairs[name].delta
            for (_, pairs), scale in zip(files, scales, strict=True)
            if name in pairs
        )
        torch.testing.assert_close(found[name], expected, rtol=1e-5, atol=1e-6)


def test_active_layers_compute_the_changed_weight(pipeline: EditPipeline, tmp_path: Path) -> None:
    pairs = random_pairs(pipeline.linears, MODULES)
    path = write_lora(tmp_path / "a.safetensors", pairs)
    layer = pipeline._pipe.transformer.get_submodule(MODULES[0])
    x = torch.randn(3, layer.in_features, generator=torch.Generator().manual_seed(0))

    with pipeline._loras.active([(path, 0.7)]), torch.no_grad():
        found = layer(x)

    weight = layer.weight.double() + 0.7 * pairs[MODULES[0]].delta
    expected = x.double() @ weight.T + layer.bias.double()
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`:UserWarning")
def test_picture_equals_that_of_the_diffusers_loader(
    pipeline: EditPipeline, tiny_model: Path, tmp_path: Path
) -> None:
    """The library's own loader as an oracle, for a layout that it reads right."""
    files = []
    for index, rank in enumerate((2, 4, 8)):
        pairs = random_pairs(pipeline.linears, MODULES, rank=rank, seed=index)
        files.append((write_lora(tmp_path / f"{index}.safetensors", pairs), 0.4 + index))
    theirs = EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32)
    for index, (path, _) in enumerate(files):
        theirs._pipe.load_lora_weights(
            str(path.parent), weight_name=path.name, adapter_name=f"a{index}", use_safetensors=True
        )
    theirs._pipe.set_adapters(["a0", "a1", "a2"], [scale for _, scale in files])

    ours = edit(pipeline, *files)

    assert np.abs(ours - edit(theirs)).max() <= 1
    assert np.abs(ours - edit(pipeline)).max() > 1


def test_scale_zero_and_no_lora_are_the_base_model_bit_for_bit(
    pipeline: EditPipeline, tmp_path: Path
) -> None:
    path = write_lora(tmp_path / "a.safetensors", random_pairs(pipeline.linears, MODULES))
    base = edit(pipeline)

    assert not np.array_equal(base, edit(pipeline, (path, 1.0)))
    assert np.array_equal(base, edit(pipeline, (path, 0.0)))
    assert np.array_equal(base, edit(pipeline))


def test_picture_moves_with_the_scale(pipeline: EditPipeline, tmp_path: Path) -> None:
    path = write_lora(tmp_path / "a.safetensors", random_pairs(pipeline.linears, MODULES))
    base = edit(pipeline)
    distances = [np.abs(base - edit(pipeline, (path, scale))).mean() for scale in (0.01, 0.1, 1.0)]
    assert 0 < distances[0] < distances[1] < distances[2]


def test_same_file_twice_counts_twice(pipeline: EditPipeline, tmp_path: Path) -> None:
    pairs = random_pairs(pipeline.linears, MODULES)
    path = write_lora(tmp_path / "a.safetensors", pairs)
    found = deltas(pipeline, [(path, 1.0), (path, 1.0)])
    for name, pair in pairs.items():
        torch.testing.assert_close(found[name], 2 * pair.delta, rtol=1e-5, atol=1e-6)


def test_failed_edit_leaves_no_lora_behind(pipeline: EditPipeline, tmp_path: Path) -> None:
    good = write_lora(tmp_path / "good.safetensors", random_pairs(pipeline.linears, MODULES))
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(good.read_bytes()[:-100])
    base = edit(pipeline)

    with pytest.raises(LoraInvalid):
        edit(pipeline, (good, 1.0), (bad, 1.0))

    assert np.array_equal(base, edit(pipeline))


def _tensors(pipeline: EditPipeline) -> dict[str, torch.Tensor]:
    pairs = random_pairs(pipeline.linears, MODULES[:2])
    return {
        f"transformer.{name}.{part}.weight": value
        for name, pair in pairs.items()
        for part, value in (("lora_A", pair.down), ("lora_B", pair.up))
    }


FIRST = f"transformer.{MODULES[0]}"
FAULTS = {
    "an unknown layer": (
        lambda t: t.update(
            {"transformer.transformer_blocks.7.attn.to_q.lora_A.weight": torch.ones(1)}
        ),
        "without a place in this model: transformer.transformer_blocks.7",
    ),
    "half a pair": (lambda t: t.pop(f"{FIRST}.lora_B.weight"), "has no up matrix"),
    "a wrong shape": (
        lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(4, 5)}),
        "transformer_blocks.0.attn.to_q is 64×64, the file has 64×4 times 4×5",
    ),
    "NaN": (
        lambda t: t.update({f"{FIRST}.lora_A.weight": torch.full((4, 64), torch.nan)}),
        "NaN or infinity",
    ),
    "infinity": (
        lambda t: t.update({f"{FIRST}.lora_A.weight": torch.full((4, 64), torch.inf)}),
        "NaN or infinity",
    ),
    "DoRA": (lambda t: t.update({f"{FIRST}.dora_scale": torch.ones(64)}), "is a DoRA"),
    "LoKr": (lambda t: t.update({f"{FIRST}.lokr_w1": torch.ones(4, 4)}), "is a LoKr"),
    "whole numbers": (
        lambda t: t.update({f"{FIRST}.lora_A.weight": torch.ones(4, 64, dtype=torch.int8)}),
        "floats are expected",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faulty_file_is_refused_with_a_sentence(
    pipeline: EditPipeline, tmp_path: Path, fault: str
) -> None:
    change, sentence = FAULTS[fault]
    tensors = _tensors(pipeline)
    change(tensors)
    path = tmp_path / "faulty.safetensors"
    save_file(tensors, path)

    with pytest.raises(LoraInvalid, match=sentence) as caught:
        read_lora(path, pipeline.linears)
    assert "faulty.safetensors" in str(caught.value)


def test_lora_for_the_text_encoder_is_named_as_such(pipeline: EditPipeline, tmp_path: Path) -> None:
    path = tmp_path / "te.safetensors"
    save_file({"text_encoder.layers.0.q_proj.lora_A.weight": torch.ones(4, 8)}, path)
    with pytest.raises(LoraInvalid, match="for the text encoder only"):
        read_lora(path, pipeline.linears)


def test_lora_for_another_model_names_its_keys(pipeline: EditPipeline, tmp_path: Path) -> None:
    path = tmp_path / "flux.safetensors"
    save_file(
        {"transformer.single_transformer_blocks.0.proj.lora_A.weight": torch.ones(4, 8)}, path
    )
    with pytest.raises(LoraInvalid, match=r"no LoRA for this model.*single_transformer_blocks"):
        read_lora(path, pipeline.linears)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + b"\0" * 40, "looks like a pickle"),
        (b"\x80\x02" + b"}q\x00" * 10, "looks like a pickle"),
        (b"<!doctype html><html></html>", "looks like a web page"),
        (b"\x10\0\0\0\0\0\0\0{}", "truncated or no safetensors file"),
        (b"\x02\0\0\0\0\0\0\0[]", "header is damaged"),
        (b"\x02\0\0\0\0\0\0\0{}", "holds no tensors"),
        (b"\x01\x02", "no safetensors file"),
    ],
)
def test_file_of_another_kind_is_refused_with_a_sentence(
    pipeline: EditPipeline, tmp_path: Path, data: bytes, sentence: str
) -> None:
    path = tmp_path / "x.safetensors"
    path.write_bytes(data)
    with pytest.raises(LoraInvalid, match=sentence):
        read_lora(path, pipeline.linears)


def test_file_that_is_gone_is_named(pipeline: EditPipeline, tmp_path: Path) -> None:
    with pytest.raises(LoraNotFound, match=r"away\.safetensors is gone"):
        read_lora(tmp_path / "away.safetensors", pipeline.linears)
