"""The VAE's causal convolutions over time, as plain ones for an image.

The VAE is one for video: its convolutions see a frame and the frames before it. Those of an image
are zeros, so only the last temporal slice of each kernel counts, a third of its products.
"""

import torch
from diffusers.models.autoencoders.autoencoder_kl_qwenimage import QwenImageCausalConv3d
from torch import nn
from torch.nn import functional


class FrameConv(QwenImageCausalConv3d):  # type: ignore[misc]
    """QwenImageCausalConv3d that computes a first frame in two dimensions.

    Several frames, and those with a cache of earlier ones, take the base class's path. The weight
    stays whole and in place, so offloading and the state dict do not change.
    """

    def forward(self, x: torch.Tensor, cache_x: torch.Tensor | None = None) -> torch.Tensor:
        """x: (batch, channels, frames, rows, columns); cache_x: the frames before."""
        left, _, top, _, before, _ = self._padding
        is_first_frame = x.shape[2] == 1 and cache_x is None and before == self.kernel_size[0] - 1
        result: torch.Tensor
        if not is_first_frame:
            result = super().forward(x, cache_x)
            return result
        kernel = self.weight[:, :, -1]
        result = functional.conv2d(x[:, :, 0], kernel, self.bias, self.stride[1:], (top, left))
        return result.unsqueeze(2)


def compute_images_in_two_dimensions(vae: nn.Module) -> None:
    """Give the VAE's causal convolutions the class that is fast for one frame."""
    for module in vae.modules():
        if type(module) is QwenImageCausalConv3d:
            module.__class__ = FrameConv
