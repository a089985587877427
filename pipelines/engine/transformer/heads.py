"""Queries and keys before attention: normalised and rotated in place, both streams at once."""

import torch
from diffusers.models.normalization import RMSNorm

from pipelines.engine.transformer.rotary import Rotation


class HeadNorms:
    """The norms of one block's queries and keys."""

    def __init__(self, image: tuple[RMSNorm, RMSNorm], text: tuple[RMSNorm, RMSNorm]) -> None:
        """`image` and `text` are the norms of the queries and of the keys of each stream."""
        self._image = image
        self._text = text

    def apply(self, heads: torch.Tensor, text_tokens: int, rotation: Rotation) -> None:
        """Normalise and rotate the heads in place.

        heads: (tokens, 2, heads, width), queries and keys; the text's tokens come first.
        """
        parts = heads[:text_tokens], heads[text_tokens:]
        if any(getattr(norm, "change", None) is not None for norm in (*self._image, *self._text)):
            streams = [
                torch.stack([norm(part[:, index]) for index, norm in enumerate(norms)], dim=1)
                for part, norms in zip(parts, (self._text, self._image), strict=True)
            ]
            rotation.into(torch.cat(streams), heads)
            return
        # RMSNorm's own arithmetic; only the weights differ between streams, queries and keys
        variance = heads.float().pow(2).mean(-1, keepdim=True)
        weight = self._image[0].weight
        normed = (heads * torch.rsqrt(variance + self._image[0].eps)).to(weight.dtype)
        normed[:text_tokens].mul_(_weights(self._text))
        normed[text_tokens:].mul_(_weights(self._image))
        rotation.into(normed, heads)


def _weights(norms: tuple[RMSNorm, RMSNorm]) -> torch.Tensor:
    """The weights of the queries' and the keys' norm, (2, 1, width)."""
    return torch.stack([norm.weight for norm in norms]).unsqueeze(1)
