"""The recipe of the demo model and its LoRAs: numbers, seeds and training steps."""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path

import numpy as np
import torch
from diffusers import QwenImageEditPlusPipeline

from demo_model import loras, vae
from demo_model import random_weights as demo
from demo_model.dataset import Dataset, build_dataset
from demo_model.edits import Edit, draw_additions, draw_edits
from demo_model.flow import Trainer
from demo_model.instructions import Task
from demo_model.replace_folder import new_folder
from pipelines.engine.loading import load_model

logger = logging.getLogger(__name__)

SEED = 0


@dataclass(frozen=True, slots=True)
class Drawn:
    """Training edits of `scenes` random scenes, drawn at one size (width, height) from one seed."""

    size: tuple[int, int]
    scenes: int
    seed: int
    draw: Callable[[np.random.Generator], list[Edit]] = draw_edits

    def edits(self) -> list[Edit]:
        """All edits, the same on each call."""
        rng = np.random.default_rng(self.seed)
        return [edit for _ in range(self.scenes) for edit in self.draw(rng)]


@dataclass(frozen=True, slots=True)
class Stage:
    """Training steps over drawn sets, each with its relative frequency.

    `batch` is the number of edits of the smallest size in a step. The learning rate goes linearly
    from the first to the second value. `weights` as in `build_dataset`, `pure_noise` and `compiles`
    as in `Trainer.train`.
    """

    sets: tuple[tuple[Drawn, int], ...]
    steps: int
    batch: int
    learning_rates: tuple[float, float]
    seed: int
    weights: dict[Task, float] = field(default_factory=dict)
    pure_noise: float = 0.2
    compiles: bool = False


HARD_TASKS = {Task.ADD: 5.0, Task.MOVE: 1.5, Task.RECOLOR: 0.6, Task.BACKGROUND: 0.8}
SMALL = Drawn((128, 128), 1200, seed=0)
SQUARE = Drawn((256, 256), 450, seed=100)
TALL = Drawn((256, 320), 80, seed=101)
WIDE = Drawn((320, 256), 80, seed=102)
MIDDLE = Drawn((384, 384), 80, seed=103)
LARGE = Drawn((512, 512), 60, seed=104)
SMALL_ADDITIONS = Drawn((128, 128), 2000, 105, draw_additions)
SQUARE_ADDITIONS = Drawn((256, 256), 600, 106, draw_additions)
MIDDLE_ADDITIONS = Drawn((384, 384), 160, 107, draw_additions)
LARGE_ADDITIONS = Drawn((512, 512), 130, 108, draw_additions)
STAGES = (
    # Small images first: the meaning of words is learnt there at a fifth of the cost.
    Stage(((SMALL, 1),), 2000, 64, (2e-3, 2e-3), seed=0, compiles=True),
    Stage(((SQUARE, 4), (TALL, 1), (WIDE, 1)), 900, 16, (1.5e-3, 1.5e-3), 1, HARD_TASKS),
    Stage(
        ((SQUARE, 3), (TALL, 1), (WIDE, 1), (MIDDLE, 1), (LARGE, 1)),
        650, 16, (1.2e-3, 2e-5), 2, HARD_TASKS,
    ),
    # Adding a shape takes the longest to learn.
    Stage(
        (
            (SMALL_ADDITIONS, 2), (SQUARE_ADDITIONS, 2), (SQUARE, 2),
            (TALL, 1), (WIDE, 1), (MIDDLE, 1), (LARGE, 1),
        ),
        1200, 64, (1.8e-3, 2e-5), 3, HARD_TASKS, pure_noise=0.35,
    ),
    Stage(
        (
            (SMALL_ADDITIONS, 2), (SQUARE_ADDITIONS, 2), (MIDDLE_ADDITIONS, 2),
            (LARGE_ADDITIONS, 2), (SQUARE, 2), (TALL, 1), (WIDE, 1), (MIDDLE, 1), (LARGE, 1),
        ),
        1500, 64, (1.5e-3, 1e-5), 4, HARD_TASKS, pure_noise=0.35,
    ),
)  # fmt: skip
STYLED = Drawn((256, 256), 60, seed=200)
# The steps are each LoRA's own.
LORA_STAGE = Stage(((STYLED, 1),), 0, 8, (4e-3, 0.0), seed=5)
# LoRAs are trained at these scales towards styles of the same strength, so that the effect of a
# scale is even.
LORA_SCALES = (0.5, 1.0, 1.0)


@dataclass(frozen=True, slots=True)
class Recipe:
    """Training of the whole demo model: stages of its transformer, steps of its VAE and decoder.

    The decoder is trained several times, from the second on styles at lower strengths too.
    """

    stages: tuple[Stage, ...] = STAGES
    vae_steps: int = vae.STEPS
    decoder_steps: tuple[int, ...] = (vae.DECODER_STEPS, 1500)


def make_model(path: Path, recipe: Recipe = Recipe()) -> None:
    """Train the demo model from random weights and write it to `path`; hours on two CPU cores."""
    with new_folder(path) as made:
        _train_model(made, recipe)


def _train_model(path: Path, recipe: Recipe) -> None:
    demo.build(path, layers=4, seed=SEED)
    pipe = load_model(path, torch.float32).pipe
    torch.manual_seed(SEED)
    pipe.vae = demo.new_vae()
    vae.train(pipe.vae, SEED, recipe.vae_steps)
    torch.manual_seed(SEED)
    trainer = Trainer(demo.new_transformer())
    for stage in recipe.stages:
        run_stage(trainer, pipe, stage)
    pipe.transformer = trainer.average
    for time, steps in enumerate(recipe.decoder_steps, 1):
        # LoRAs at lower scales give colours in between, which the first decoder has not seen
        least_strength = 1.0 if time == 1 else 0.2
        vae.train_decoder(pipe.vae, SEED + time, steps, least_strength)
    save(pipe, path)


def make_loras(model: Path, folder: Path) -> None:
    """Train the demo LoRAs on the model in `model` and write their files into `folder`."""
    pipe = load_model(model, torch.float32).pipe
    for lora in loras.DEMO_LORAS:
        trainer = Trainer(loras.with_adapter(pipe.transformer, SEED))
        stage = replace(LORA_STAGE, steps=lora.steps)
        run_stage(trainer, pipe, stage, styles=(lora.style,), strengths=LORA_SCALES)
        loras.save_lora(lora, trainer.average, folder / f"demo-{lora.style}.safetensors")


def save(pipe: QwenImageEditPlusPipeline, path: Path) -> None:
    """Write the trained components over the random ones in `path`, in bfloat16."""
    for name in ("vae", "transformer", "text_encoder"):
        part = getattr(pipe, name).to(torch.bfloat16)
        part.save_pretrained(path / name)
        part.to(torch.float32)


def run_stage(
    trainer: Trainer,
    pipe: QwenImageEditPlusPipeline,
    stage: Stage,
    styles: tuple[str, ...] = (),
    strengths: tuple[float, ...] = (1.0,),
) -> None:
    """Draw and encode the stage's edits, the targets in `styles`, and train on them.

    Each strength gives a dataset whose targets are drawn that far towards the styles.
    """
    datasets: list[Dataset] = []
    for (drawn, share), strength in product(stage.sets, strengths):
        logger.info("drawing %d scenes at %d×%d", drawn.scenes, *drawn.size)
        data = build_dataset(
            pipe,
            demo.DEMO_SPEC,
            drawn.size,
            drawn.edits(),
            weights=stage.weights,
            styles=styles,
            strength=strength,
        )
        datasets += [data] * share
    first, last = stage.learning_rates
    trainer.train(
        datasets,
        stage.steps,
        stage.batch,
        lambda done: first + (last - first) * done,
        seed=stage.seed,
        pure_noise=stage.pure_noise,
        compiles=stage.compiles,
    )
