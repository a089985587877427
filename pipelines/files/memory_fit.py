"""The memory that each way to keep a model's weights needs, and whether it fits. No torch.

The ways are those of `pipelines.api.load_options.Offload`. The figures beside the weights are
estimates.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS

GIB = 2**30
# The memory of an edit of 1024×1024 beside the weights: 59.7 GiB were reported at the peak for
# Qwen-Image-Edit-2509 in bfloat16, of which 53.7 GiB are weights.
WORKING_BYTES = 6 * GIB
_MEASURED_PARAMETERS = sum(QWEN_IMAGE_EDIT_PLUS.parameters.values())
# With one layer at a time on the device: the largest layers, and those being copied.
LAYERS_BYTES = 2 * GIB
# The worker itself, and the file that it reads.
HOST_BYTES = 4 * GIB


@dataclass(frozen=True, slots=True)
class Fit:
    """One way to keep the weights, the bytes that it needs, and whether they are available."""

    offload: str
    device_needs: int
    host_needs: int
    fits: bool


def fits_on_gpu(
    parameters: Mapping[str, int],
    *,
    bytes_each: int,
    device_bytes: int,
    host_bytes: int,
    workers: int = 1,
) -> tuple[Fit, ...]:
    """All ways, the fastest first. `device_bytes` is one GPU's; each worker has its own copy."""
    sizes = [count * bytes_each for count in parameters.values()]
    total, largest = sum(sizes), max(sizes, default=0)
    working = working_bytes(parameters)
    layers = min(LAYERS_BYTES, largest)
    host = workers * (total + HOST_BYTES)
    needs = (
        ("none", total + working, workers * HOST_BYTES),
        ("model", largest + working, host),
        ("group", layers + working, host),
    )
    return tuple(
        Fit(offload, device, memory, device <= device_bytes and memory <= host_bytes)
        for offload, device, memory in needs
    )


def fits_on_cpu(parameters: Mapping[str, int], *, bytes_each: int, host_bytes: int) -> Fit:
    """Return whether the host has the memory for the model and for an edit."""
    needs = sum(parameters.values()) * bytes_each + working_bytes(parameters)
    return Fit("none", 0, needs, needs <= host_bytes)


def working_bytes(parameters: Mapping[str, int]) -> int:
    """The memory of an edit beside the weights, in proportion to the model, at least 1 GiB."""
    share = sum(parameters.values()) / _MEASURED_PARAMETERS
    return max(GIB, int(WORKING_BYTES * min(share, 1.0)))
