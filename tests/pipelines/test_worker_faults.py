"""Worker processes whose model or device fails in the middle of an edit."""

import contextlib
import dataclasses
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from pipelines.api.errors import LoraInvalid, is_device_failure
from pipelines.api.messages import Done, Failed, Ready, Run
from tests.fake_worker import DEVICE_FAILURE, NON_FINITE
from tests.pipelines.test_worker import IMAGE, PARAMS, WorkerUnderTest

FAKE = "tests.fake_worker"


@contextlib.contextmanager
def started(model: Path, program: str) -> Iterator[WorkerUnderTest]:
    """A worker that has loaded the model."""
    worker = WorkerUnderTest(model, program)
    try:
        assert isinstance(worker.receive(), Ready)
        yield worker
    finally:
        worker.close()


def test_device_failure_fails_the_job_and_ends_the_worker(tiny_model: Path) -> None:
    with started(tiny_model, FAKE) as worker:
        params = dataclasses.replace(PARAMS, prompt=DEVICE_FAILURE)
        worker.connection.send(Run("bad", params, (IMAGE,)))
        failed = worker.ending("bad")[-1]

        assert failed == Failed(
            "bad",
            "device_failed",
            "The device failed, and its worker is replaced: CUDA error: an illegal memory access",
            is_fatal=True,
        )
        assert worker.exit_code() == 1


def test_non_finite_output_fails_the_job_and_the_worker_stays(tiny_model: Path) -> None:
    with started(tiny_model, FAKE) as worker:
        failed = worker.run("bad", dataclasses.replace(PARAMS, prompt=NON_FINITE))[-1]

        assert isinstance(failed, Failed)
        assert (failed.code, failed.is_fatal) == ("non_finite_output", False)
        assert isinstance(worker.run("good")[-1], Done)


def test_model_that_computes_nan_ends_each_job_with_its_own_code(
    tiny_model: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(tiny_model, broken)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(weights)
    tensors["proj_out.weight"][0, 0] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})

    with started(broken, "pipelines.worker") as worker:
        endings = [worker.run(name)[-1] for name in ("first", "second")]

    for ending in endings:
        assert isinstance(ending, Failed)
        assert (ending.code, ending.is_fatal) == ("non_finite_output", False)
        assert "NaN or infinity for seed 5" in ending.message


def caused_by(cause: Exception) -> Exception:
    """An error of ours that came from another."""
    try:
        raise LoraInvalid("The LoRA cannot be read.") from cause
    except LoraInvalid as exc:
        return exc


@pytest.mark.parametrize(
    ("exc", "is_fatal"),
    [
        (torch.AcceleratorError("device-side assert triggered"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (caused_by(RuntimeError("CUDA error: misaligned address")), True),
        (RuntimeError("shapes do not match"), False),
        (ValueError("CUDA error: in a text"), False),
        (caused_by(OSError("no such file")), False),
    ],
)
def test_errors_of_cuda_are_fatal(exc: Exception, is_fatal: bool) -> None:
    assert is_device_failure(exc) is is_fatal
