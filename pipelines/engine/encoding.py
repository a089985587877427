"""Encoded prompts and references, kept by content: a repeated edit encodes nothing again.

The seed, the size, the steps and LoRAs of the transformer alone are not in the keys.
"""

import hashlib
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass

import PIL.Image
import torch

from pipelines.engine.bounded_cache import BoundedCache
from pipelines.engine.families.family import References
from pipelines.engine.loading import LoadedModel

# Of the device. Two prompts over three images take 15 MB, a reference of 1024² pixels 0.5 MB.
CACHE_BYTES = 256 * 2**20
Encoded = torch.Tensor | References
# Of each image: its size in pixels, and the SHA-256 of its RGB pixels.
ImagesKey = tuple[tuple[tuple[int, int], bytes], ...]


@dataclass(frozen=True, slots=True)
class PromptKey:
    """Everything that prompt embeddings depend on, for one model.

    `area` is in pixels; `text_key` stands for the LoRAs' changes of the text encoder.
    """

    prompt: str
    images: ImagesKey
    area: int
    text_key: Hashable


@dataclass(frozen=True, slots=True)
class ReferencesKey:
    """Everything that reference latents depend on, for one model. `area` is in pixels."""

    images: ImagesKey
    area: int


class EncodeCache:
    """Encoder results on their device, at most `max_bytes` of them. Not thread-safe.

    Results are shared between edits: never change them in place.
    """

    def __init__(self, max_bytes: int = CACHE_BYTES) -> None:
        self._max_bytes = max_bytes
        self._entries: BoundedCache[Encoded] = BoundedCache(max_bytes, size_bytes)
        # of the prompts and sets of references that edits asked for
        self.hits = 0
        self.misses = 0

    @property
    def total_bytes(self) -> int:
        """The size of all entries."""
        return self._entries.total_bytes

    def get(self, key: PromptKey | ReferencesKey) -> Encoded | None:
        """The kept result, or None."""
        found = self._entries.get(key)
        self.hits += found is not None
        self.misses += found is None
        return found

    def put(self, key: PromptKey | ReferencesKey, encoded: Encoded) -> None:
        """Keep a result, unless it alone exceeds the bound."""
        if size_bytes(encoded) <= self._max_bytes:
            self._entries.put(key, encoded)


class Encoder:
    """Encodes the inputs of one edit, or finds them in the cache.

    New results enter the cache in `keep` only, so an edit that fails or is canceled while it
    encodes leaves none.
    """

    def __init__(
        self,
        model: LoadedModel,
        cache: EncodeCache,
        images: Sequence[PIL.Image.Image],
        text_key: Hashable,
    ) -> None:
        """`text_key` is that of the active LoRAs, by `LoraEngine.active`."""
        self._model = model
        self._cache = cache
        self._images = images
        self._images_key = images_key(images)
        self._text_key = text_key
        self._new: dict[PromptKey | ReferencesKey, Encoded] = {}

    def prompt(self, prompt: str) -> torch.Tensor:
        """The prompt's embeddings, which see the images: (1, tokens, width)."""
        pipe, family, area = self._model.pipe, self._model.family, self._model.spec.condition_area
        key = PromptKey(prompt, self._images_key, area, self._text_key)
        found = self._find(key, lambda: family.encode_prompt(pipe, prompt, self._images, area))
        assert isinstance(found, torch.Tensor)
        return found

    def references(self, area: int) -> References:
        """The latents of the images, each resized to about `area` pixels."""
        pipe, family = self._model.pipe, self._model.family
        key = ReferencesKey(self._images_key, area)
        found = self._find(key, lambda: family.encode_references(pipe, self._images, area))
        assert isinstance(found, References)
        return found

    def keep(self) -> None:
        """Put the results that were not in the cache into it."""
        for key, encoded in self._new.items():
            self._cache.put(key, encoded)
        self._new.clear()

    def _find(self, key: PromptKey | ReferencesKey, encode: Callable[[], Encoded]) -> Encoded:
        found = self._cache.get(key)
        if found is None:
            # a negative prompt can be equal to the prompt
            found = self._new[key] if key in self._new else encode()
            self._new[key] = found
        return found


def images_key(images: Sequence[PIL.Image.Image]) -> ImagesKey:
    """The key of RGB images in their order."""
    return tuple((image.size, hashlib.sha256(image.tobytes()).digest()) for image in images)


def size_bytes(encoded: Encoded) -> int:
    """The memory that the result holds, which may be more than that of its elements."""
    tensor = encoded.latents if isinstance(encoded, References) else encoded
    return tensor.untyped_storage().nbytes()
