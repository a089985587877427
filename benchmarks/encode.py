"""Encoding: repeated edits beside first ones, and the demo model's encoders beside diffusers'.

What is compared alternates, so that a busy moment hits both.
"""

import dataclasses
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import PIL.Image
import torch
from diffusers import QwenImageEditPlusPipeline

from benchmarks.figure import Figure
from pipelines.api.messages import Stage
from pipelines.api.params import EditParams
from pipelines.engine import loading
from pipelines.engine.families.qwen2_5_vl import pass_image_token_types
from pipelines.engine.families.qwen_image_edit_plus import load_components
from pipelines.engine.pipeline import EditPipeline

MODEL = Path(__file__).parent.parent / "weights" / "demo"
ROUNDS = 9
PROMPTS = ("Make the circle blue.", " ")
Work = Callable[[], object]


def encoding() -> list[Figure]:
    """All figures of this file."""
    with torch.no_grad():
        return [_repeated(), *_beside_stock()]


def _repeated() -> Figure:
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
    return Figure(name, ours / whole, "×", 0.05, detail)


def _beside_stock() -> list[Figure]:
    """Embeddings of two prompts, and one image through the VAE, as shares of diffusers' time."""
    model, stock = loading.load_model(MODEL, torch.float32), _stock()
    family, area = model.family, model.spec.condition_area
    image = PIL.Image.new("RGB", (256, 256), (200, 100, 100))
    size = family.facts.sizes.area_size(area, *image.size)
    pixels = model.pipe.image_processor.preprocess(image).unsqueeze(2)
    latents = stock.vae.encode(pixels).latent_dist.mode()

    def embed() -> None:
        with family.images_seen_once(model.pipe):
            for prompt in PROMPTS:
                family.encode_prompt(model.pipe, prompt, [image], area)

    def embed_stock() -> None:
        for prompt in PROMPTS:
            stock.encode_prompt(prompt, image=[image.resize(size)])

    return [
        _share("embeddings of two prompts", embed, embed_stock),
        _share(
            "VAE, encoding 256×256",
            lambda: model.pipe.vae.encode(pixels),
            lambda: stock.vae.encode(pixels),
        ),
        _share(
            "VAE, decoding 256×256",
            lambda: model.pipe.vae.decode(latents),
            lambda: stock.vae.decode(latents),
        ),
    ]


def _stock() -> QwenImageEditPlusPipeline:
    """diffusers' pipeline, with only the token types that it forgets to pass."""
    components = load_components(MODEL)
    pipe = QwenImageEditPlusPipeline.from_pretrained(MODEL, dtype=torch.float32, **components)
    pass_image_token_types(pipe.text_encoder)
    return pipe


def _share(name: str, ours: Work, theirs: Work) -> Figure:
    seconds: dict[Work, list[float]] = {ours: [], theirs: []}
    for _ in range(ROUNDS + 1):
        for work, taken in seconds.items():
            start = time.perf_counter()
            work()
            taken.append(time.perf_counter() - start)
    mine, stock = (statistics.median(taken[1:]) for taken in seconds.values())
    detail = f"median of {ROUNDS}; stock {stock * 1000:.1f} ms, ours {mine * 1000:.1f}"
    return Figure(f"{name}, share of stock's", mine / stock, "×", 1.0, detail)
