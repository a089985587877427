"""Whether the forward of our own runs, which a check beside diffusers' decides at start."""

import functools
import logging
from dataclasses import dataclass, field

import torch
from diffusers import QwenImageTransformer2DModel

from pipelines.api.errors import ModelUnusable
from pipelines.api.load_options import ForwardName, Offload
from pipelines.engine.families.family import ForwardInputs, Grid, Predict, References
from pipelines.engine.loading import LoadedModel
from pipelines.engine.transformer.forward import FastForward
from pipelines.engine.transformer.modulation import ScheduleModulation

logger = logging.getLogger(__name__)

# Of the check's velocities: on a CPU they are the same bits, on a GPU other kernels may be chosen.
MAX_RMS = 1e-2
# With a pruned last block they are not the same bits on a CPU either.
MAX_PRUNED_RMS_FP32 = 1e-5
_CHECK_GRIDS: tuple[Grid, ...] = ((1, 8, 10), (1, 6, 8))
_CHECK_TEXT_TOKENS = 23


@dataclass
class Forward:
    """How a model's velocities are computed: `name`, and for the stock forward the reason.

    `notices` are sentences for the next result.
    """

    name: ForwardName
    reason: str | None = None
    fast: FastForward | None = None
    notices: list[str] = field(default_factory=list)

    def predictor(
        self, model: LoadedModel, sigmas: tuple[float, ...], dtype: torch.dtype
    ) -> Predict:
        """What computes the velocities of one schedule, under the active LoRAs."""
        stock = functools.partial(model.family.predict, model.pipe)
        if self.fast is None:
            return stock
        return functools.partial(self._predict, self.fast.modulations.of(sigmas, dtype), stock)

    def _predict(
        self, modulation: ScheduleModulation, stock: Predict, inputs: ForwardInputs
    ) -> torch.Tensor:
        """The fast forward's velocity or, if it fails, from then on diffusers'."""
        if self.fast is not None:
            try:
                found = modulation.at(inputs.step, inputs.timestep)
                return self.fast.velocity(inputs, found)
            except torch.OutOfMemoryError:
                raise
            except RuntimeError as exc:
                logger.exception("the fast forward failed")
                self._give_up(f"it failed while it ran: {exc}")
        return stock(inputs)

    def _give_up(self, reason: str) -> None:
        self.name, self.reason, self.fast = ForwardName.STOCK, reason, None
        self.notices.append(f"The fast forward is off: {reason}. This result is not affected.")


def choose_forward(
    model: LoadedModel,
    device: torch.device,
    choice: ForwardName,
    offload: Offload,
    *,
    prunes_last_block: bool = False,
) -> Forward:
    """The forward for a model that is in its place.

    Raises ModelUnusable where the fast one is asked for and cannot run.
    """
    if choice is ForwardName.STOCK:
        return Forward(ForwardName.STOCK, "QWEN_EDIT_FORWARD is stock")
    reason = _obstacle(model, offload)
    if reason is None:
        fast = FastForward(model.pipe.transformer, prunes_last_block=prunes_last_block)
        reason = _difference(model, fast, device, is_pruned=prunes_last_block)
    if reason is None:
        return Forward(ForwardName.FAST, fast=fast)
    if choice is ForwardName.FAST:
        raise ModelUnusable(f"QWEN_EDIT_FORWARD=fast cannot be used: {reason}. Use auto or stock.")
    logger.warning("the stock forward is used: %s", reason)
    return Forward(ForwardName.STOCK, reason)


def _obstacle(model: LoadedModel, offload: Offload) -> str | None:
    transformer = model.pipe.transformer
    if offload is not Offload.NONE:
        return f"weights wait in host memory (QWEN_EDIT_OFFLOAD={offload})"
    if type(transformer) is not QwenImageTransformer2DModel:
        return f"the transformer is a {type(transformer).__name__}"
    config = transformer.config
    odd = ("guidance_embeds", "use_additional_t_cond", "use_layer3d_rope")
    if found := [key for key in odd if config.get(key)]:
        return f"the transformer has {' and '.join(found)}"
    return None


@torch.no_grad()
def _difference(
    model: LoadedModel, fast: FastForward, device: torch.device, *, is_pruned: bool
) -> str | None:
    """Why the fast forward's result is not accepted, or None."""
    transformer = model.pipe.transformer
    generator = torch.Generator().manual_seed(0)

    def random(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device, transformer.dtype)

    grid, reference = _CHECK_GRIDS
    latents, latents_of_reference = (
        random(1, rows * columns, transformer.config.in_channels)
        for _, rows, columns in (grid, reference)
    )
    inputs = ForwardInputs(
        latents,
        torch.full((1,), 0.7, device=device, dtype=transformer.dtype),
        step=0,
        grid=grid,
        prompt_embeds=random(1, _CHECK_TEXT_TOKENS, transformer.config.joint_attention_dim),
        references=References(latents_of_reference, (reference,)),
    )
    expected = model.family.predict(model.pipe, inputs)
    try:
        modulation = fast.modulations.compute(inputs.timestep, transformer.dtype)
        found = fast.velocity(inputs, modulation)
    except RuntimeError as exc:
        return f"its check failed: {exc}"
    if device.type == "cpu" and not is_pruned:
        return None if torch.equal(found, expected) else "its check gave other bits"
    most = MAX_RMS
    if device.type == "cpu" and transformer.dtype == torch.float32:
        most = MAX_PRUNED_RMS_FP32
    error = (found.float() - expected.float()).norm() / expected.float().norm()
    # not `>`: NaN is no success
    return None if error <= most else f"its check is {error:.1e} off, at most {most:g} is allowed"
