"""The libraries and CUDA devices that torch finds, as JSON: `python -m pipelines.engine.devices`.

A process of its own, because the server never imports torch.
"""

import json
import warnings
from importlib.metadata import version

import torch

LIBRARIES = ("torch", "diffusers", "transformers", "peft")


def main() -> None:
    """Print the report on one line."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        count = torch.cuda.device_count() if torch.cuda.is_available() else 0
        gpus = [_describe(index) for index in range(count)]
    report = {
        "libraries": {name: version(name) for name in LIBRARIES},
        "cuda_build": torch.version.cuda,
        "gpus": gpus,
        # torch reports a driver that is too old as a warning
        "problems": [str(warning.message).strip() for warning in caught],
    }
    print(json.dumps(report))


def _describe(index: int) -> dict[str, int | str]:
    properties = torch.cuda.get_device_properties(index)
    try:
        free, total = torch.cuda.mem_get_info(index)
    except RuntimeError:  # another process has exclusive use of it, or all of its memory
        free, total = 0, properties.total_memory
    return {
        "index": index,
        "name": properties.name,
        "total_bytes": total,
        "free_bytes": free,
        "capability": f"{properties.major}.{properties.minor}",
    }


if __name__ == "__main__":
    main()
