"""The step loop: from noise to latents, with classifier-free guidance.

It replaces the call of diffusers' pipeline, which leaves state behind when it is canceled, encodes
everything again for each output, and keeps its schedule in the shared pipeline object.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
from diffusers import SchedulerMixin

from pipelines.engine.families.family import ForwardInputs, Grid, Predict, References
from pipelines.engine.loading import LoadedModel


@dataclass(frozen=True, slots=True)
class Conditions:
    """The encoded inputs that all outputs of an edit share. `negative` is None without guidance.

    positive, negative: (1, tokens, width).
    """

    positive: torch.Tensor
    negative: torch.Tensor | None
    references: References


def denoise(
    model: LoadedModel,
    predict: Predict,
    scheduler: SchedulerMixin,
    latents: torch.Tensor,
    grid: Grid,
    conditions: Conditions,
    *,
    cfg_scale: float,
    on_step: Callable[[int, Callable[[], torch.Tensor]], None],
) -> torch.Tensor:
    """Denoise packed `latents` of an output with `grid` over the scheduler's steps.

    `predict` computes the velocities. `on_step(k, estimate)` is called after step k, from 1; an
    exception from it ends the loop. `estimate()` gives the latents at which the loop would end with
    a constant velocity.
    """

    def velocity_of(
        prompt_embeds: torch.Tensor, context: str, step: int, timestep: torch.Tensor
    ) -> torch.Tensor:
        with model.pipe.transformer.cache_context(context):
            return predict(
                ForwardInputs(latents, timestep, step, grid, prompt_embeds, conditions.references)
            )

    for index, moment in enumerate(scheduler.timesteps):
        timestep = moment.expand(1).to(latents.dtype) / scheduler.config.num_train_timesteps
        velocity = velocity_of(conditions.positive, "cond", index, timestep)
        if conditions.negative is not None:
            negative = velocity_of(conditions.negative, "uncond", index, timestep)
            velocity = model.family.guide(velocity, negative, cfg_scale)
        latents = scheduler.step(velocity, moment, latents, return_dict=False)[0]
        noise_left = scheduler.sigmas[index + 1]
        on_step(index + 1, functools.partial(_straight_on, latents, velocity, noise_left))
    return latents


def _straight_on(
    latents: torch.Tensor, velocity: torch.Tensor, noise_left: torch.Tensor
) -> torch.Tensor:
    return (latents.float() - noise_left.to(latents.device) * velocity.float()).to(latents.dtype)
