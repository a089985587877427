"""Training of the demo model's transformer by flow matching, over a `Dataset`."""

import copy
import logging
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from diffusers import QwenImageTransformer2DModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from demo_model.dataset import Dataset

logger = logging.getLogger(__name__)

WARMUP_STEPS = 100
TWO_IMAGES_SHARE = 0.2
# The weight of a token that the edit changes: most of an image stays as it is.
CHANGED_WEIGHT = 4.0
CHANGED_THRESHOLD = 0.3
SCHEDULE_SHIFT = math.exp(0.5)
EMA_DECAY = 0.998
LOG_EVERY = 50


@dataclass(frozen=True, slots=True)
class Sample:
    """One batch: latents of targets and sources, (edits, tokens, 64), and texts as in EditSet."""

    target: Tensor
    sources: Tensor
    text: Tensor
    shapes: list[list[tuple[int, int, int]]]


class Trainer:
    """A transformer, its optimizers and the moving average of its weights."""

    def __init__(self, transformer: QwenImageTransformer2DModel) -> None:
        torch._dynamo.config.recompile_limit = 64
        self.transformer = transformer
        self.average = copy.deepcopy(transformer).eval().requires_grad_(False)
        self._generator = torch.Generator()
        self._optimizers = _optimizers(transformer)
        self._step = 0

    def train(
        self,
        datasets: Sequence[Dataset],
        steps: int,
        batch: int,
        rate: Callable[[float], float],
        *,
        seed: int,
        pure_noise: float,
        compiles: bool = False,
    ) -> None:
        """Train on random batches of the datasets. `rate(done)` is the learning rate, done 0 to 1.

        `batch` is the number of edits at the smallest size; larger sizes have fewer.
        `pure_noise` is the share of samples that are noise alone, like the first step of an edit,
        which decides what is drawn. `compiles` uses torch.compile, which pays off for many steps
        at one small size and costs minutes for each further size.
        """
        self.transformer.train()
        self._generator.manual_seed(seed)
        self._compiles = compiles
        self._pure_noise = pure_noise
        self._loss = torch.compile(_flow_loss) if compiles else _flow_loss
        smallest = min(data.latents.shape[1] for data in datasets)
        started, losses = time.monotonic(), []
        for step in range(1, steps + 1):
            data = datasets[self._draw(len(datasets))]
            set_scale(self.transformer, data.strength)
            count = max(1, batch * smallest // data.latents.shape[1])
            warm = min(1.0, (self._step + 1) / WARMUP_STEPS)
            losses.append(self._train_step(self._sample(data, count), warm * rate(step / steps)))
            if step % LOG_EVERY == 0:
                recent = sum(losses[-LOG_EVERY:]) / LOG_EVERY
                elapsed = time.monotonic() - started
                logger.info("flow step %d: loss %.4f, %.0f s", self._step, recent, elapsed)

    def _train_step(self, sample: Sample, rate: float) -> float:
        noise = torch.randn(sample.target.shape, generator=self._generator)
        moment = self._moments(len(noise))
        loss = self._loss(self.transformer, sample, noise, moment)
        for optimizer in self._optimizers:
            optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.transformer.parameters(), 1.0)
        for optimizer in self._optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.step()
        self._step += 1
        decay = min(EMA_DECAY, self._step / (self._step + 20))
        with torch.no_grad():
            mine, theirs = list(self.average.parameters()), list(self.transformer.parameters())
            torch._foreach_lerp_(mine, theirs, 1 - decay)
        return float(loss.detach())

    def _sample(self, data: Dataset, count: int) -> Sample:
        images = 2 if torch.rand((), generator=self._generator) < TWO_IMAGES_SHARE else 1
        if images not in data.edits:
            (images,) = data.edits
        sets = data.edits[images]
        edits = sets[self._pick(torch.stack([edits.weight.sum() for edits in sets]), 1)]
        chosen = self._pick(edits.weight, count)
        text = edits.text[chosen].float()
        if self._compiles:
            torch._dynamo.mark_dynamic(text, 1)
        return Sample(
            target=data.latents[edits.target[chosen]].float(),
            sources=data.latents[edits.sources[chosen]].flatten(1, 2).float(),
            text=text,
            shapes=[[data.grid] * (images + 1)] * count,
        )

    def _moments(self, count: int) -> Tensor:
        """Times from 0 (image) to 1 (noise), shifted like the schedule of the pipeline."""
        even = torch.rand(count, generator=self._generator)
        shifted = SCHEDULE_SHIFT * even / (1 + (SCHEDULE_SHIFT - 1) * even)
        pure = torch.rand(count, generator=self._generator) < self._pure_noise
        return torch.where(pure, torch.ones_like(shifted), shifted)

    def _pick(self, weights: Tensor, count: int) -> Tensor:
        return torch.multinomial(weights, count, replacement=True, generator=self._generator)

    def _draw(self, below: int) -> int:
        return int(torch.randint(below, (), generator=self._generator))


def set_scale(transformer: QwenImageTransformer2DModel, scale: float) -> None:
    """Set the scale of the adapter, if the transformer has one."""
    for module in transformer.modules():
        if isinstance(module, LoraLayer):
            for adapter in module.scaling:
                module.set_scale(adapter, scale)


def _flow_loss(
    transformer: QwenImageTransformer2DModel, sample: Sample, noise: Tensor, moment: Tensor
) -> Tensor:
    """The squared error of the predicted velocity, noise minus image."""
    tokens = sample.target.shape[1]
    share = moment[:, None, None]
    noisy = (1 - share) * sample.target + share * noise
    with torch.autocast("cpu", torch.bfloat16):
        predicted = transformer(
            hidden_states=torch.cat([noisy, sample.sources], dim=1),
            timestep=moment,
            encoder_hidden_states=sample.text,
            img_shapes=sample.shapes,
            return_dict=False,
        )[0][:, :tokens]
    error = (predicted.float() - (noise - sample.target)).square().mean(-1)
    difference = (sample.sources[:, :tokens] - sample.target).square().mean(-1)
    weight = 1 + (CHANGED_WEIGHT - 1) * (difference > CHANGED_THRESHOLD**2).float()
    loss: Tensor = (error * weight / weight.mean()).mean()
    return loss


def _optimizers(transformer: QwenImageTransformer2DModel) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the blocks, AdamW for the rest and for adapters."""
    matrices: list[nn.Parameter] = []
    rest: list[nn.Parameter] = []
    for name, parameter in transformer.named_parameters():
        inner = name.startswith("transformer_blocks") and "_mod." not in name
        is_matrix = inner and parameter.ndim == 2 and "lora_" not in name
        if parameter.requires_grad:
            (matrices if is_matrix else rest).append(parameter)
    optimizers: list[torch.optim.Optimizer] = []
    if matrices:
        muon = torch.optim.Muon(matrices, weight_decay=0.01, adjust_lr_fn="match_rms_adamw")
        optimizers.append(muon)
    adam = torch.optim.AdamW(rest, betas=(0.9, 0.98), weight_decay=0.01)
    return [*optimizers, adam]
