"""LoRA: up (out, rank) times down (rank, in)."""

import re

from pipelines.files.lora_format.kinds.kind import Kind, product_rank

# Possessive where a key that does not match would take quadratic time.
LORA = Kind(
    name="LoRA",
    suffixes=(
        (re.compile(r"\.lora_A(\.[^.]++)*\.weight$"), "down"),
        (re.compile(r"\.lora_B(\.[^.]++)*\.weight$"), "up"),
        (re.compile(r"\.lora_down\.weight$"), "down"),
        (re.compile(r"\.lora_up\.weight$"), "up"),
        (re.compile(r"\.lora\.down\.weight$"), "down"),
        (re.compile(r"\.lora\.up\.weight$"), "up"),
    ),
    forms=(frozenset({"down", "up"}),),
    rank=lambda shapes, features: product_rank(shapes, "up", "down", features),
    rows="up",
)
