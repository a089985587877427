"""Print the growth of resident memory over 500 switches of LoRAs, as JSON. Run as a module."""

import gc
import json
import resource
import sys
from pathlib import Path

import torch
from diffusers import QwenImageTransformer2DModel

from pipelines.engine.lora import LoraEngine, cache
from tests.lora_files import random_pairs, write_lora

SWITCHES = 500
CPU = torch.device("cpu")


def resident_bytes() -> int:
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def main(folder: Path) -> None:
    torch.set_num_threads(1)
    transformer = QwenImageTransformer2DModel(
        num_layers=4,
        attention_head_dim=32,
        num_attention_heads=1,
        joint_attention_dim=32,
        axes_dims_rope=(8, 12, 12),
    )
    # room for one file and one adapter: each switch reads, composes and evicts
    engine = LoraEngine(transformer, CPU, torch.float32, host_bytes=1, device_bytes=1)
    names = list(engine.linears)
    files = [
        write_lora(
            folder / f"{rank}.safetensors",
            random_pairs(engine.linears, names, rank=rank, alpha=1.0, seed=rank),
        )
        for rank in (2, 3, 5)
    ]
    reads = 0
    original = cache.read_lora

    def counted(*args: object, **kwargs: object) -> object:
        nonlocal reads
        reads += 1
        return original(*args, **kwargs)  # type: ignore[arg-type]

    cache.read_lora = counted  # type: ignore[assignment]
    one, two, three = files
    stacks = [
        [(one, 1.0), (two, 0.5), (three, 2.0)],
        [(three, 1.0), (one, 3.0)],
        [(two, 0.7), (three, 0.0)],
    ]
    x = torch.randn(2, 3, engine.linears[names[0]][1])
    layer = transformer.get_submodule(names[0])
    seen = []
    for turn in range(SWITCHES):
        with engine.active(stacks[turn % 3]), torch.no_grad():
            layer(x)
        if turn + 1 in (SWITCHES // 2, SWITCHES):
            seen.append(resident_bytes())
    print(json.dumps({"second_half_bytes": seen[1] - seen[0], "reads": reads}))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
