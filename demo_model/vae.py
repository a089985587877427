"""Training of the demo model's VAE on drawn scenes, and the statistics of its latents."""

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKLQwenImage
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from torch import Tensor, nn

from demo_model.sampling import random_scene
from demo_model.styles import STYLES, paint_styled

logger = logging.getLogger(__name__)

STEPS = 3600
DECODER_STEPS = 3000
BATCH = 8
SIZE = 128
LEARNING_RATE = 2e-3
KL_WEIGHT = 2e-4
# The transformer's latents are never exact; the decoder learns to ignore errors of this size.
DECODER_NOISE = 0.3
# The log variance of latents at the start; the usual 0 would drown the signal in noise.
FIRST_LOG_VARIANCE = -6.0
STYLED_SHARE = 0.3
LOG_EVERY = 100
MEASURED_IMAGES = 256


def train(vae: AutoencoderKLQwenImage, seed: int, steps: int = STEPS) -> None:
    """Train in place, then write the mean and deviation of its latents into its configuration."""
    with torch.no_grad():
        vae.quant_conv.bias[vae.config.z_dim :] = FIRST_LOG_VARIANCE
    _train(vae, [p for name, p in vae.named_parameters() if "time_conv" not in name], seed, steps)
    with still_images():
        _silence_time(vae)
        _measure_latents(vae, np.random.default_rng(seed + 1))


def train_decoder(
    vae: AutoencoderKLQwenImage, seed: int, steps: int = DECODER_STEPS, least_strength: float = 1.0
) -> None:
    """Train the decoder alone, so that a transformer trained on the latents stays valid.

    Styled images are drawn at strengths from `least_strength` to 1.
    """
    vae.requires_grad_(False)
    parts = (vae.post_quant_conv, vae.decoder)
    parameters = [
        p for part in parts for name, p in part.named_parameters() if "time_conv" not in name
    ]
    for parameter in parameters:
        parameter.requires_grad_(True)
    _train(vae, parameters, seed, steps, DECODER_NOISE, least_strength)
    vae.requires_grad_(True)


def _train(
    vae: AutoencoderKLQwenImage,
    parameters: list[nn.Parameter],
    seed: int,
    steps: int,
    extra_noise: float = 0.0,
    least_strength: float = 1.0,
) -> None:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    optimizer = torch.optim.AdamW(parameters, LEARNING_RATE, weight_decay=1e-4, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps, pct_start=0.05)
    compiled_loss = torch.compile(_loss)
    started, errors = time.monotonic(), []
    vae.train()
    with still_images():
        for step in range(1, steps + 1):
            noise = torch.randn(BATCH, vae.config.z_dim, 1, SIZE // 8, SIZE // 8)
            images = _images(rng, BATCH, least_strength)
            loss, error = compiled_loss(vae, images, noise, extra_noise)
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            errors.append(float(error))
            if step % LOG_EVERY == 0:
                recent = sum(errors[-LOG_EVERY:]) / LOG_EVERY
                elapsed = time.monotonic() - started
                logger.info("vae step %d: error %.4f, %.0f s", step, recent, elapsed)
    vae.eval()


def _loss(
    vae: AutoencoderKLQwenImage, images: Tensor, noise: Tensor, extra_noise: float
) -> tuple[Tensor, Tensor]:
    """Absolute plus squared error plus a small KL term, and the absolute error alone.

    Calls the parts of the VAE one by one: its `decode` clamps, which would cut gradients off.
    """
    with torch.autocast("cpu", torch.bfloat16):
        moments = vae.quant_conv(vae.encoder(images))
        mean, log_variance = moments.float().chunk(2, dim=1)
        log_variance = log_variance.clamp(-30, 20)
        latents = mean + noise * (torch.exp(0.5 * log_variance) + extra_noise)
        decoded = vae.decoder(vae.post_quant_conv(latents))
    difference = decoded.float() - images
    error = difference.abs().mean()
    kl = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).mean()
    return error + difference.square().mean() + KL_WEIGHT * kl, error.detach()


def _images(rng: np.random.Generator, count: int, least_strength: float = 1.0) -> Tensor:
    """(count, 3, 1, SIZE, SIZE) in [-1, 1], some in one or two of the demo LoRAs' styles."""
    painted = []
    for _ in range(count):
        styled = rng.random() < STYLED_SHARE
        styles = rng.choice(STYLES, rng.integers(1, 3), replace=False) if styled else ()
        scene = random_scene(rng)
        strength = rng.uniform(least_strength, 1.0) if least_strength < 1.0 else 1.0
        names = (str(name) for name in styles)
        painted.append(paint_styled(scene, SIZE, SIZE, *names, strength=strength))
    pixels = torch.from_numpy(np.stack(painted)).permute(0, 3, 1, 2)
    return (pixels / 127.5 - 1).unsqueeze(2)


@torch.no_grad()
def _silence_time(vae: AutoencoderKLQwenImage) -> None:
    """Zero the weights that only videos use: they were never trained, and zeros compress well."""
    for module in vae.modules():
        if isinstance(module, QwenImageCausalConv3d):
            module.weight[:, :, :-1] = 0


@torch.no_grad()
def _measure_latents(vae: AutoencoderKLQwenImage, rng: np.random.Generator) -> None:
    latents = torch.cat(
        [vae.encode(_images(rng, 16)).latent_dist.mode() for _ in range(MEASURED_IMAGES // 16)]
    )
    mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
    # an unused channel must not be scaled up to noise
    std = std.clamp(min=0.2 * float(std.max()))
    vae.register_to_config(
        latents_mean=[round(float(x), 5) for x in mean],
        latents_std=[round(float(x), 5) for x in std],
    )


@contextmanager
def still_images() -> Iterator[None]:
    """Make the VAE's convolutions two-dimensional in the block: equal for one frame, and faster.

    Causal padding puts zeros before the only frame, so only the last tap contributes.
    """

    def forward(self: QwenImageCausalConv3d, x: Tensor, cache_x: Any = None) -> Tensor:
        weight = self.weight[:, :, -1]
        left, _, top, _ = self._padding[:4]
        flat = nn.functional.conv2d(x[:, :, 0], weight, self.bias, self.stride[1:], (top, left))
        return flat.unsqueeze(2)

    original = QwenImageCausalConv3d.forward
    QwenImageCausalConv3d.forward = forward
    try:
        yield
    finally:
        QwenImageCausalConv3d.forward = original
