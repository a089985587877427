"""The safety checker with a tiny classifier of transformers, built here."""

from pathlib import Path

import PIL.Image
import pytest
import torch
from transformers import ViTConfig, ViTForImageClassification
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from pipelines.api.errors import ModelUnusable
from pipelines.engine.safety import SafetyChecker

CPU = torch.device("cpu")


def build_classifier(path: Path, labels: list[str], *, brightness_class: int = 1) -> Path:
    """A classifier that gives bright images `labels[brightness_class]` and dark ones the other."""
    config = ViTConfig(
        image_size=32,
        patch_size=16,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        id2label=dict(enumerate(labels)),
        label2id={label: index for index, label in enumerate(labels)},
    )
    torch.manual_seed(0)
    model = ViTForImageClassification(config).eval()
    white, black = torch.ones(1, 3, 32, 32), -torch.ones(1, 3, 32, 32)
    with torch.no_grad():
        features = [model.vit(pixels).last_hidden_state[0, 0] for pixels in (white, black)]
        direction = features[0] - features[1]
        middle = (features[0] + features[1]) / 2
        model.classifier.weight.zero_()
        model.classifier.bias.zero_()
        scale = 50 / direction.norm() ** 2
        model.classifier.weight[brightness_class] = scale * direction
        model.classifier.bias[brightness_class] = -scale * direction @ middle
    model.save_pretrained(path)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(path)
    return path


def plain(color: str) -> PIL.Image.Image:
    return PIL.Image.new("RGB", (64, 48), color)


@pytest.mark.parametrize("labels", [["normal", "nsfw"], ["SFW", "NSFW"], ["safe", "porn"]])
def test_image_is_unsafe_when_its_class_is(tmp_path: Path, labels: list[str]) -> None:
    checker = SafetyChecker(str(build_classifier(tmp_path, labels)), CPU)
    assert checker.is_unsafe(plain("white"))
    assert not checker.is_unsafe(plain("black"))


def test_class_named_not_nsfw_is_safe(tmp_path: Path) -> None:
    path = build_classifier(tmp_path, ["nsfw", "not_nsfw"])
    assert not SafetyChecker(str(path), CPU).is_unsafe(plain("white"))


def test_classifier_without_an_unsafe_class_is_refused(tmp_path: Path) -> None:
    path = build_classifier(tmp_path, ["cat", "dog"])
    with pytest.raises(ModelUnusable, match="its classes are cat, dog"):
        SafetyChecker(str(path), CPU)


def test_missing_classifier_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelUnusable, match="cannot be loaded"):
        SafetyChecker(str(tmp_path), CPU)
