"""Diffusers' forward, beside which ours is tested and measured."""

import torch
from diffusers import QwenImageTransformer2DModel

from pipelines.engine.families.family import ForwardInputs


def stock_velocity(model: QwenImageTransformer2DModel, inputs: ForwardInputs) -> torch.Tensor:
    """The velocity of the output's tokens, (1, output tokens, channels)."""
    found: torch.Tensor = model(
        hidden_states=inputs.tokens,
        encoder_hidden_states=inputs.prompt_embeds,
        timestep=inputs.timestep,
        img_shapes=[list(inputs.grids)],
        return_dict=False,
    )[0]
    return found[:, : inputs.latents.shape[1]]
