"""Rotary positions of text and images, kept for the shapes that are in use."""

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from diffusers import QwenImageTransformer2DModel

from pipelines.engine.families.family import Grid

# Both prompts of some edits. One of 8,442 tokens takes 4.3 MB.
_KEPT = 16


@dataclass(frozen=True, slots=True)
class Rotation:
    """The rotation of each token, text first: complex64, (tokens, 1, 1, head width / 2).

    A complex product is one operation; written in real numbers, it takes five times as long on a
    CPU.
    """

    angles: torch.Tensor

    def into(self, heads: torch.Tensor, out: torch.Tensor) -> None:
        """Write the rotated `heads`, both (tokens, 2, heads, width). Rounded once, from fp32."""
        pairs = torch.view_as_complex(heads.float().view(*heads.shape[:-1], -1, 2))
        target = out.view(*out.shape[:-1], -1, 2)
        if out.dtype == torch.float32:
            torch.mul(pairs, self.angles, out=torch.view_as_complex(target))
        else:
            target.copy_(torch.view_as_real(pairs * self.angles))


class Rotations:
    """The rotations of one transformer, by the images' grids and the number of text tokens."""

    def __init__(self, transformer: QwenImageTransformer2DModel) -> None:
        self._positions = transformer.pos_embed
        self._kept: OrderedDict[tuple[tuple[Grid, ...], int, torch.device], Rotation] = (
            OrderedDict()
        )

    def of(self, grids: Sequence[Grid], text_tokens: int, device: torch.device) -> Rotation:
        """The rotation for text followed by images of these grids."""
        key = (tuple(grids), text_tokens, device)
        if key not in self._kept:
            shapes = [list(grids)]
            images, text = self._positions(shapes, max_txt_seq_len=text_tokens, device=device)
            self._kept[key] = Rotation(torch.cat([text, images])[:, None, None])
        self._kept.move_to_end(key)
        while len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return self._kept[key]
