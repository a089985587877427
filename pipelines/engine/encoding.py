"""What an edit is conditioned on: prompts and references, encoded once while they stay the same.

A repeated edit with another seed, or one of many over the same images, finds all of it here.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import PIL.Image
import torch

from pipelines.engine.bounded_cache import BoundedCache
from pipelines.engine.families.family import References
from pipelines.engine.loading import LoadedModel
from pipelines.engine.lora import LayerChange

# Of the device. Two prompts over three images take 15 MB, a reference of 1024² pixels 0.5 MB.
CACHE_BYTES = 256 * 2**20


@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images in their order, and what tells them from all others."""

    images: Sequence[PIL.Image.Image]
    key: Hashable

    @classmethod
    def of(cls, images: Sequence[PIL.Image.Image]) -> "ImageSet":
        """The images with their sizes and a digest of their pixels."""
        digests = (hashlib.sha256(image.tobytes()).digest() for image in images)
        sizes = (image.size for image in images)
        return cls(images, tuple(zip(sizes, digests, strict=True)))


@dataclass(frozen=True, slots=True)
class _Entry:
    """A result, and the changes whose addresses are in its key: no others may get these."""

    value: torch.Tensor | References
    changes: tuple[LayerChange, ...] = ()

    @property
    def size_bytes(self) -> int:
        value = self.value.latents if isinstance(self.value, References) else self.value
        return value.nbytes + sum(change.size_bytes for change in self.changes)


class Encoder:
    """Encodes for one model. Results must not be changed. Not thread-safe."""

    def __init__(
        self,
        model: LoadedModel,
        text_changes: Callable[[], tuple[LayerChange, ...]],
        *,
        max_bytes: int = CACHE_BYTES,
    ) -> None:
        """`text_changes` are the active changes of the text encoder; 0 bytes keep nothing."""
        self._model = model
        self._text_changes = text_changes
        self._is_kept = max_bytes > 0
        self._kept: BoundedCache[_Entry] = BoundedCache(max_bytes, lambda entry: entry.size_bytes)

    def prompt(self, prompt: str, images: ImageSet) -> torch.Tensor:
        """The prompt's embeddings, which depend on the images: (1, tokens, width)."""
        family, area = self._model.family, self._model.spec.condition_area
        changes = self._text_changes()
        key = ("prompt", prompt, images.key, tuple(map(id, changes)))
        found = self._of(
            key,
            lambda: family.encode_prompt(self._model.pipe, prompt, images.images, area),
            changes,
        )
        assert isinstance(found, torch.Tensor)
        return found

    def references(self, images: ImageSet, area: int) -> References:
        """The latents of the images, each resized to about `area` pixels."""
        family = self._model.family
        found = self._of(
            ("references", images.key, area),
            lambda: family.encode_references(self._model.pipe, images.images, area),
        )
        assert isinstance(found, References)
        return found

    def _of(
        self,
        key: Hashable,
        encode: Callable[[], torch.Tensor | References],
        changes: tuple[LayerChange, ...] = (),
    ) -> torch.Tensor | References:
        entry = self._kept.get(key)
        if entry is None:
            entry = _Entry(encode(), changes)
            if self._is_kept:
                self._kept.put(key, entry)
        return entry.value
