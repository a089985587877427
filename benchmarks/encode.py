"""Encoding of an edit that is repeated with another seed, beside that of the first, in one run."""

import dataclasses
import statistics
from pathlib import Path

import PIL.Image
import torch

from benchmarks.figure import Figure
from pipelines.api.messages import Stage
from pipelines.api.params import EditParams
from pipelines.engine.pipeline import EditPipeline

MODEL = Path(__file__).parent.parent / "weights" / "demo"
ROUNDS = 9


def encode_cache() -> list[Figure]:
    """The share of the first edit's encoding time that a repeated one takes, with CFG."""
    pipeline = EditPipeline.load(MODEL, device="cpu", dtype=torch.float32)
    params = EditParams(prompt="a", seed=0, num_inference_steps=2, true_cfg_scale=2.0)
    first: list[float] = []
    again: list[float] = []
    for index in range(ROUNDS + 1):
        image = PIL.Image.new("RGB", (256, 256), (index, 100, 100))
        new = dataclasses.replace(params, prompt=f"Make circle {index} blue.")
        for seconds, seed in ((first, 1), (again, 2)):
            edit = dataclasses.replace(new, seed=seed)
            seconds.append(pipeline.edit(edit, [image]).seconds[Stage.ENCODE])
    # the first round warms up
    ours, whole = statistics.median(again[1:]), statistics.median(first[1:])
    detail = f"median of {ROUNDS}; first {whole * 1000:.1f} ms, repeated {ours * 1000:.2f}"
    name = "encoding of a repeated edit, share of the first's"
    return [Figure(name, ours / whole, "×", 0.05, detail)]
