"""LoRA: up (out, rank) times down (rank, in)."""

import re

from pipelines.files.lora_format.kinds.kind import Kind, product_rank

# Possessive where a key that does not match would take quadratic time.
LORA = Kind(
    name="LoRA",
    suffixes=(
        # with the name of an adapter, `weight`, both or neither behind it
        (re.compile(r"\.lora_A(\.(?!bias$)[^.]++)*$"), "down"),
        (re.compile(r"\.lora_B(\.(?!bias$)[^.]++)*$"), "up"),
        (re.compile(r"\.lora_down(\.[^.]++)*$"), "down"),
        (re.compile(r"\.lora_up(\.[^.]++)*$"), "up"),
        (re.compile(r"\.lora\.down(\.[^.]++)*$"), "down"),
        (re.compile(r"\.lora\.up(\.[^.]++)*$"), "up"),
        (re.compile(r"\.lora\.A(\.[^.]++)*$"), "down"),
        (re.compile(r"\.lora\.B(\.[^.]++)*$"), "up"),
        (re.compile(r"_lora\.down(\.[^.]++)*$"), "down"),
        (re.compile(r"_lora\.up(\.[^.]++)*$"), "up"),
        (re.compile(r"\.lora_linear_layer\.down(\.[^.]++)*$"), "down"),
        (re.compile(r"\.lora_linear_layer\.up(\.[^.]++)*$"), "up"),
    ),
    forms=(frozenset({"down", "up"}),),
    rank=lambda shapes, features: product_rank(shapes, "up", "down", features),
    rows="up",
)
