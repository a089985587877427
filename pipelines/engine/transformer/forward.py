"""The forward of QwenImageTransformer2DModel, written for one image sequence at inference.

The same arithmetic in the same order, so that results are those of diffusers bit for bit on a CPU,
without its copies: one buffer for the queries, keys and values of both streams, slices in place of
`where`, and nothing that waits for the device. Prunes nothing that rounds differently unless asked.
"""

import torch
from diffusers import QwenImageTransformer2DModel
from diffusers.models.transformers.transformer_qwenimage import QwenImageTransformerBlock
from torch import nn
from torch.nn import functional

from pipelines.engine.families.family import ForwardInputs
from pipelines.engine.transformer.heads import HeadNorms
from pipelines.engine.transformer.modulation import (
    BlockModulation,
    ModulationTable,
    Rows,
    StepModulation,
)
from pipelines.engine.transformer.projections import JointProjection
from pipelines.engine.transformer.rotary import Rotation, Rotations

_FP16_LARGEST = 65504.0


class FastForward:
    """The forward of one transformer. Not thread-safe, and under `torch.no_grad` only.

    `prunes_last_block` computes only what the velocity needs of the last block: exact in
    mathematics, but matrices of other sizes round differently.
    """

    def __init__(
        self, transformer: QwenImageTransformer2DModel, *, prunes_last_block: bool = False
    ) -> None:
        """Fuse the projections of `transformer`, whose results stay the same."""
        self._transformer = transformer
        self._blocks = [_Block(block) for block in transformer.transformer_blocks]
        self._rotations = Rotations(transformer)
        self._prunes_last_block = prunes_last_block
        self.modulations = ModulationTable(transformer)

    def velocity(self, inputs: ForwardInputs, modulation: StepModulation) -> torch.Tensor:
        """The velocity of the output's tokens, (1, output tokens, channels)."""
        model, outputs = self._transformer, inputs.latents.shape[1]
        image = model.img_in(inputs.tokens)[0]
        text = model.txt_in(model.txt_norm(inputs.prompt_embeds))[0]
        rotation = self._rotations.of(inputs.grids, len(text), image.device)
        last = len(self._blocks) - 1
        for index, block in enumerate(self._blocks):
            steps = modulation.blocks[index]
            if index < last:
                image, text = block.run(image, text, steps, rotation, outputs)
            elif self._prunes_last_block:
                image = block.run_pruned(image, text, steps, rotation, outputs)
            else:
                image, _ = block.run(image, text, steps, rotation, outputs, is_last=True)
        shift, scale = modulation.out
        normed = model.norm_out.norm(image[:outputs]).mul_(scale).add_(shift)
        velocity: torch.Tensor = model.proj_out(normed[None])
        return velocity


class _Block:
    """One block with two streams, image and text, over a QwenImageTransformerBlock's layers."""

    def __init__(self, block: QwenImageTransformerBlock) -> None:
        attention = block.attn
        self._block = block
        self._attention = attention
        self._width = attention.inner_dim
        self._heads = attention.heads
        self._image_qkv = JointProjection((attention.to_q, attention.to_k, attention.to_v))
        self._text_qkv = JointProjection(
            (attention.add_q_proj, attention.add_k_proj, attention.add_v_proj)
        )
        self._norms = HeadNorms(
            (attention.norm_q, attention.norm_k), (attention.norm_added_q, attention.norm_added_k)
        )

    def run(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        steps: BlockModulation,
        rotation: Rotation,
        outputs: int,
        *,
        is_last: bool = False,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The streams after this block, (tokens, width) each; they are changed in place.

        The text after the last block is not used, so it is left out.
        """
        split = len(text)
        queries, keys, values = self._queries_keys_values(image, text, steps, rotation, outputs)
        attended = _attend(queries, keys, values)
        self._finish_image(image, attended[split:], steps, outputs)
        if not is_last:
            block, attention = self._block, self._attention
            _add_gated(text, steps.text_attention, attention.to_add_out(attended[:split]), split)
            normed = _modulated(block.txt_norm2, text, steps.text_mlp, split)
            _add_gated(text, steps.text_mlp, block.txt_mlp(normed), split)
            _clip(text)
        return image, text

    def run_pruned(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        steps: BlockModulation,
        rotation: Rotation,
        outputs: int,
    ) -> torch.Tensor:
        """The output's tokens after the last block: the others only give keys and values."""
        split = len(text)
        queries, keys, values = self._queries_keys_values(image, text, steps, rotation, outputs)
        attended = _attend(queries[split : split + outputs], keys, values)
        image = image[:outputs]
        self._finish_image(image, attended, steps, outputs)
        return image

    def _finish_image(
        self, image: torch.Tensor, attended: torch.Tensor, steps: BlockModulation, outputs: int
    ) -> None:
        """Add attention and the MLP to the image's tokens, which are changed in place."""
        block = self._block
        _add_gated(image, steps.image_attention, self._attention.to_out[0](attended), outputs)
        normed = _modulated(block.img_norm2, image, steps.image_mlp, outputs)
        _add_gated(image, steps.image_mlp, block.img_mlp(normed), outputs)
        _clip(image)

    def _queries_keys_values(
        self,
        image: torch.Tensor,
        text: torch.Tensor,
        steps: BlockModulation,
        rotation: Rotation,
        outputs: int,
    ) -> tuple[torch.Tensor, ...]:
        """Views into one buffer, (tokens, heads, head width) each, text first."""
        block, split = self._block, len(text)
        joint = image.new_empty(split + len(image), 3 * self._width)
        self._text_qkv.into(
            _modulated(block.txt_norm1, text, steps.text_attention, split), joint[:split]
        )
        self._image_qkv.into(
            _modulated(block.img_norm1, image, steps.image_attention, outputs), joint[split:]
        )
        heads = joint.view(len(joint), 3, self._heads, -1)
        self._norms.apply(heads[:, :2], split, rotation)
        return heads.unbind(1)


def _attend(queries: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attention, (tokens, width), of (tokens, heads, head width)."""
    query, key, value = (part.unsqueeze(0).transpose(1, 2) for part in (queries, keys, values))
    attended = functional.scaled_dot_product_attention(query, key, value)
    return attended[0].transpose(0, 1).flatten(1)


def _modulated(norm: nn.Module, x: torch.Tensor, rows: Rows, outputs: int) -> torch.Tensor:
    """The normalised tokens, scaled and shifted."""
    normed: torch.Tensor = norm(x)
    for row, tokens in zip(rows, _parts(normed, rows, outputs), strict=True):
        tokens.mul_(row.scale).add_(row.shift)
    return normed


def _add_gated(x: torch.Tensor, rows: Rows, update: torch.Tensor, outputs: int) -> None:
    """Add the gated update to `x`; both are changed."""
    for row, tokens in zip(rows, _parts(update, rows, outputs), strict=True):
        tokens.mul_(row.gate)
    x.add_(update)


def _parts(x: torch.Tensor, rows: Rows, outputs: int) -> tuple[torch.Tensor, ...]:
    """The tokens by the row of the modulation that is theirs."""
    return (x,) if len(rows) == 1 else (x[:outputs], x[outputs:])


def _clip(x: torch.Tensor) -> None:
    if x.dtype == torch.float16:
        x.clamp_(-_FP16_LARGEST, _FP16_LARGEST)
