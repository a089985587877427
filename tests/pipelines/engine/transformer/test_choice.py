"""Which forward a model runs, and what happens when the fast one cannot."""

import dataclasses
import logging
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.api.errors import ModelUnusable
from pipelines.api.load_options import ForwardName, Offload
from pipelines.api.params import EditParams
from pipelines.engine.pipeline import EditPipeline
from pipelines.engine.transformer import choice
from pipelines.engine.transformer.forward import FastForward
from tests.conftest import gradient

PARAMS = EditParams(prompt="a", seed=1, size=(256, 256), num_outputs=2)


def load(model: Path, forward: ForwardName, **options: object) -> EditPipeline:
    return EditPipeline.load(model, device="cpu", dtype=torch.float32, forward=forward, **options)


def pixels(pipeline: EditPipeline) -> list[np.ndarray]:
    return [np.asarray(image) for image in pipeline.edit(PARAMS, [gradient()]).images]


def test_fast_edit_has_the_pixels_of_stock(tiny_model: Path) -> None:
    fast, stock = (load(tiny_model, name) for name in (ForwardName.FAST, ForwardName.STOCK))

    assert (fast.forward.name, fast.forward.reason) == ("fast", None)
    assert (stock.forward.name, stock.forward.reason) == ("stock", "QWEN_EDIT_FORWARD is stock")
    assert all(map(np.array_equal, pixels(fast), pixels(stock)))


def test_auto_is_fast_where_the_check_holds(tiny_model: Path) -> None:
    assert load(tiny_model, ForwardName.AUTO).forward.name == "fast"


@pytest.mark.parametrize("forward", [ForwardName.AUTO, ForwardName.FAST])
def test_check_that_fails_means_stock_or_no_start(
    tiny_model: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    forward: ForwardName,
) -> None:
    velocity = FastForward.velocity

    def off(self: FastForward, *args: object) -> torch.Tensor:
        return velocity(self, *args) * (1 + 1e-6)  # type: ignore[arg-type]

    monkeypatch.setattr(FastForward, "velocity", off)
    if forward is ForwardName.FAST:
        with pytest.raises(ModelUnusable, match="QWEN_EDIT_FORWARD=fast cannot be used: its"):
            load(tiny_model, forward)
        return
    with caplog.at_level(logging.WARNING):
        pipeline = load(tiny_model, forward)
    assert pipeline.forward.name == "stock"
    assert pipeline.forward.reason == "its check gave other bits"
    assert "the stock forward is used: its check gave other bits" in caplog.text


def test_offloaded_weights_run_stock(tiny_model: Path) -> None:
    pipeline = load(tiny_model, ForwardName.AUTO, offload=Offload.GROUP)
    assert pipeline.forward.reason == "weights wait in host memory (QWEN_EDIT_OFFLOAD=group)"
    with pytest.raises(ModelUnusable, match="weights wait in host memory"):
        load(tiny_model, ForwardName.FAST, offload=Offload.GROUP)


def test_pruned_last_block_is_accepted_within_its_tolerance(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pruned = load(tiny_model, ForwardName.FAST, prune_last_block=True)
    stock = load(tiny_model, ForwardName.STOCK)
    for found, expected in zip(pixels(pruned), pixels(stock), strict=True):
        assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1

    monkeypatch.setattr(choice, "MAX_PRUNED_RMS_FP32", -1.0)
    with pytest.raises(ModelUnusable, match="off, at most -1 is allowed"):
        load(tiny_model, ForwardName.FAST, prune_last_block=True)


def test_failure_in_mid_run_falls_back_once_and_says_so(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load(tiny_model, ForwardName.FAST)
    expected = pixels(load(tiny_model, ForwardName.STOCK))
    velocity, calls = FastForward.velocity, []

    def fail_at_third(self: FastForward, *args: object) -> torch.Tensor:
        calls.append(args)
        if len(calls) == 3:
            raise RuntimeError("no kernel image is available")
        return velocity(self, *args)  # type: ignore[arg-type]

    monkeypatch.setattr(FastForward, "velocity", fail_at_third)
    result = pipeline.edit(PARAMS, [gradient()])

    found = [np.asarray(image) for image in result.images]
    assert all(map(np.array_equal, found, expected))
    assert [warning for warning in result.warnings if "no kernel image" in warning]
    assert pipeline.forward.name == "stock"
    assert pipeline.edit(PARAMS, [gradient()]).warnings == ()
    assert len(calls) == 3


def test_too_little_memory_is_no_reason_to_fall_back(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = load(tiny_model, ForwardName.FAST)

    def exhaust(*_: object) -> torch.Tensor:
        raise torch.OutOfMemoryError("out of memory")

    monkeypatch.setattr(FastForward, "velocity", exhaust)
    with pytest.raises(Exception, match="too little memory"):
        pipeline.edit(dataclasses.replace(PARAMS, num_outputs=1), [gradient()])
    assert pipeline.forward.name == "fast"
