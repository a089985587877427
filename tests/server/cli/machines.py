"""Machines for the tests of `qwen-edit doctor`."""

from pipelines.files.memory_fit import GIB
from server.cli.machine import Gpu, Host, TorchReport

LIBRARIES = {"torch": "2.13.0", "diffusers": "0.42.1"}
BIG_HOST = Host(16, 128 * GIB, 120 * GIB, "580.65.06")


def gpu(gib: int, index: int = 0) -> Gpu:
    return Gpu(index, "NVIDIA X", gib * GIB, gib * GIB, "9.0")


def torch_with(*gpus: Gpu, cuda_build: str | None = "13.0") -> TorchReport:
    return TorchReport(LIBRARIES, cuda_build, gpus, ())
