"""Files of kinds that are refused, or whose tensors or configuration contradict each other."""

import torch
from safetensors.torch import save_file

from pipelines.files.lora_format.config import METADATA_KEY
from tests.lora_files import adapter_metadata
from tests.pipelines.engine.lora.conftest import MODULES
from tests.pipelines.engine.lora.corpus_faults import (
    CONTAINERS,
    FIRST,
    MISFITS,
    Writer,
    good,
    loha_without_its_end,
    only,
    plus,
    with_config,
)

# Tensors of kinds that are not applied, by what their message says.
REFUSED_PARTS = {
    "a GLoRA": ("a1.weight", "a2.weight", "b1.weight", "b2.weight"),
    "an IA3": ("weight", "on_input"),
    "a T-LoRA": ("q_layer.weight", "p_layer.weight", "lambda_layer"),
    "a LoHa for convolutions": ("hada_t1",),
    "a LoKr for convolutions": ("lokr_t2",),
    "a LoRA for convolutions": ("lora_mid.weight",),
    "an AdaLoRA": ("lora_A", "lora_B", "lora_E"),
    "a VeRA": ("vera_lambda_b", "vera_lambda_d"),
    r"a LoRA in scaled fp8 \(scale_weight\)": ("lora_down.scale_weight",),
    r"a LoRA with biases of norms \(b_norm\)": ("b_norm",),
    r"a full difference of convolutions \(.diff_m\)": ("diff_m",),
}
KINDS: dict[str, tuple[Writer, str]] = {
    **{
        kind: (
            only(*(f"{FIRST}.{part}" for part in parts)),
            f"faulty.safetensors is {kind}; this engine applies LoRA, .* and DoRA",
        )
        for kind, parts in REFUSED_PARTS.items()
    },
    "OFT with blocks of another layer": (
        lambda path, linears: save_file({f"{FIRST}.oft_blocks": torch.ones(4, 8, 8)}, path),
        "does not fit this model: .* the file has blocks of 4×8×8",
    ),
    "OFT with entries of no block": (
        lambda path, linears: save_file({f"{FIRST}.oft_R.weight": torch.ones(8, 29)}, path),
        "does not fit this model: .* the file has blocks of 8×29",
    ),
    "OFT of PEFT": (
        lambda path, linears: save_file(
            {f"{FIRST}.oft_R.weight": torch.ones(8, 28)},
            path,
            adapter_metadata(8, None, peft_type="OFT"),
        ),
        "is an OFT of PEFT",
    ),
    "fused projections and one of them": (
        lambda path, linears: save_file(
            {
                **good(linears),
                "transformer.transformer_blocks.0.attn.to_qkv.lora_A.weight": torch.ones(4, 64),
                "transformer.transformer_blocks.0.attn.to_qkv.lora_B.weight": torch.ones(192, 4),
            },
            path,
        ),
        f"changes {MODULES[0]} twice, alone and fused",
    ),
    "fused projections of a LoKr": (
        lambda path, linears: save_file(
            {
                "transformer_blocks.0.attn.to_qkv.lokr_w1": torch.ones(4, 4),
                "transformer_blocks.0.attn.to_qkv.lokr_w2": torch.ones(48, 16),
            },
            path,
        ),
        "changes the fused transformer_blocks.0.attn.to_qkv as a LoKr",
    ),
    "a BOFT": (
        lambda path, linears: save_file({f"{FIRST}.oft_blocks": torch.ones(2, 8, 8, 8)}, path),
        "is a BOFT",
    ),
    "embeddings": (plus("bundle_emb.trigger.string_to_param", torch.ones(4, 8)), "with embeddings"),
    "DoRA with the magnitude of another layer": (
        plus(f"{FIRST}.dora_scale", torch.ones(32, 1)),
        "does not fit this model: .* the file has a magnitude of 32×1",
    ),
    "DoRA with a magnitude alone": (
        only(f"{FIRST}.dora_scale"),
        f"is incomplete: {MODULES[0]} has no down matrix",
    ),
    "DoRA by its metadata": (
        with_config(4, 4.0, use_dora=True),
        "is a DoRA without the magnitude of transformer_blocks",
    ),
    "LoKr in part": (
        only(f"{FIRST}.lokr_w1", f"{FIRST}.lokr_w2_a"),
        f"is incomplete: {MODULES[0]} has no lokr_w2_b matrix",
    ),
    "LoKr with a matrix too many": (
        only(f"{FIRST}.lokr_w1", f"{FIRST}.lokr_w2", f"{FIRST}.lokr_w2_a"),
        f"has one lokr_w2_a matrix too many in {MODULES[0]}",
    ),
    "LoKr of another size": (
        only(f"{FIRST}.lokr_w1", f"{FIRST}.lokr_w2"),
        rf"does not fit this model: {MODULES[0]} is 64×64, the file has 4×8 by 4×8",
    ),
    "LoKr with ranks that differ": (
        only(f"{FIRST}.lokr_w1", f"{FIRST}.lokr_w2_a", f"{FIRST}.lokr_w2_b"),
        "the file has 4×8 times 4×8",
    ),
    "difference of another size": (
        only(f"{FIRST}.diff"),
        f"does not fit this model: {MODULES[0]} is 64×64, the file has 4×8",
    ),
    "difference beside a LoRA": (
        plus(f"{FIRST}.diff", torch.ones(64, 64)),
        f"mixes LoRA and difference matrices in {MODULES[0]}",
    ),
    "bias of another size": (
        plus(f"{FIRST}.diff_b", torch.ones(32)),
        "the file has a shift of 32",
    ),
    "DoRA with biases": (
        lambda path, linears: save_file(
            {
                **good(linears),
                f"{FIRST}.dora_scale": torch.ones(64, 1),
                f"{FIRST}.lora_B.bias": torch.ones(64),
            },
            path,
        ),
        f"has a bias beside a LoRA in {MODULES[0]}",
    ),
    "LoHa in part": (loha_without_its_end, f"is incomplete: {MODULES[0]} has no w2_b matrix"),
    "LoRA and LoHa at once": (
        plus(f"{FIRST}.hada_w1_a", torch.ones(64, 4)),
        f"mixes LoRA and LoHa matrices in {MODULES[0]}",
    ),
    "rsLoRA without alpha": (
        with_config(4, None, use_rslora=True),
        "is an rsLoRA without an alpha: its strength is unknown",
    ),
    "configured rank is another": (
        with_config(8, 8.0),
        "contradicts itself: its configuration gives transformer_blocks.* rank 8, .* have rank 4",
    ),
    "configured pattern is another": (
        with_config(4, 4.0, rank_pattern={"to_q": 16}),
        f"contradicts itself: its configuration gives {MODULES[0]} rank 16",
    ),
    "configured alpha is NaN": (with_config(4, float("nan")), "cannot be understood"),
    "configured alpha is infinite": (with_config(4, float("inf")), "cannot be understood"),
    "configured alpha is too large for a float": (
        with_config(4, 10**400),
        "the metadata of .* cannot be understood",
    ),
    "configuration is nested too deep": (
        lambda path, linears: save_file(good(linears), path, {METADATA_KEY: "[" * 100_000}),
        "the metadata of .* cannot be understood",
    ),
    "pattern has flags inside": (
        with_config(4, 4.0, rank_pattern={"(?i)to_q": 4}),
        "the metadata of .* cannot be understood",
    ),
    "pattern takes exponential time": (
        with_config(4, 4.0, alpha_pattern={r"(\w|\w)*!": 4}),
        "the pattern .* is too complex",
    ),
    "pattern repeats nothing four billion times": (
        with_config(4, 4.0, alpha_pattern={"(){4000000000}": 4}),
        "the pattern .* is too complex",
    ),
    "pattern is too long": (
        with_config(4, 4.0, alpha_pattern={"a" * 201: 4}),
        "the pattern .* is too complex",
    ),
    "patterns are too many": (
        with_config(4, 4.0, rank_pattern={f"layer.{index}": 4 for index in range(2001)}),
        "2001 patterns are too many",
    ),
    "pattern is no expression": (
        with_config(4, 4.0, alpha_pattern={"(": 1}),
        "the metadata of .* cannot be understood",
    ),
    "configuration is no JSON": (
        lambda path, linears: save_file(good(linears), path, {"lora_adapter_metadata": "{r: 4"}),
        "the metadata of .* cannot be understood",
    ),
    "configuration is a list": (
        lambda path, linears: save_file(good(linears), path, {"lora_adapter_metadata": "[4]"}),
        "the metadata of .* cannot be understood",
    ),
}
FAULTS: dict[str, tuple[Writer, str]] = CONTAINERS | MISFITS | KINDS
