"""Safety check of finished images by an image classifier that the operator chooses."""

import re
from pathlib import Path

import PIL.Image
import torch
from transformers import AutoImageProcessor, AutoModelForImageClassification

from pipelines.api.errors import ModelUnusable, without_paths

# Class names in common use: NSFW detectors, content raters.
_UNSAFE_LABEL = re.compile(r"nsfw|porn|hentai|sexy|sexual|nud|explicit|unsafe|gore", re.IGNORECASE)
_NEGATION = re.compile(r"^(not|non|no)[\s_-]|^safe|^sfw", re.IGNORECASE)


class SafetyChecker:
    """A transformers image-classification model with some unsafe classes."""

    def __init__(self, reference: str, device: torch.device) -> None:
        """Load a model by path or hub id. Raises ModelUnusable."""
        source = Path(reference).expanduser()
        name = str(source) if source.is_dir() else reference
        try:
            # PIL processors, because torchvision is not required
            self._processor = AutoImageProcessor.from_pretrained(name, use_fast=False)
            self._model = AutoModelForImageClassification.from_pretrained(
                name, use_safetensors=True
            )
        except (OSError, ValueError, ImportError) as exc:
            text = without_paths(f"The safety checker {reference} cannot be loaded: {exc}")
            raise ModelUnusable(text) from exc
        self._model = self._model.to(device).eval()
        labels: dict[int, str] = self._model.config.id2label
        self._unsafe = [
            index
            for index, label in labels.items()
            if _UNSAFE_LABEL.search(label) and not _NEGATION.search(label)
        ]
        if not self._unsafe:
            raise ModelUnusable(
                f"The safety checker {reference} has no class for unsafe images: its classes are "
                f"{', '.join(labels.values())}."
            )

    @torch.no_grad()
    def is_unsafe(self, image: PIL.Image.Image) -> bool:
        """Return whether the unsafe classes have more than half of the probability."""
        inputs = self._processor(image, return_tensors="pt").to(self._model.device)
        probabilities = self._model(**inputs).logits.float().softmax(-1)[0]
        return bool(probabilities[self._unsafe].sum() > 0.5)
