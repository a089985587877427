"""Prompts and references are encoded once while they, and the text encoder, stay the same."""

import dataclasses
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from pipelines.api.params import EditParams, LoraRef
from pipelines.engine import encoding
from pipelines.engine.encoding import Encoder
from pipelines.engine.pipeline import EditPipeline
from tests.conftest import gradient
from tests.lora_files import random_pairs, write_lora

PARAMS = EditParams(prompt="a", seed=1, size=(256, 256), num_inference_steps=2)
TEXT_LAYER = "text_encoder.model.language_model.layers.1.mlp.down_proj"
# With CFG: both prompts, and the reference.
WHOLE = {"prompts": 2, "references": 1}
NOTHING = {"prompts": 0, "references": 0}


class Counted:
    """A pipeline that counts what its encoders are asked for."""

    def __init__(self, model: Path, **options: int) -> None:
        self.pipeline = EditPipeline.load(model, device="cpu", dtype=torch.float32)
        if options:
            self.pipeline._encoder = Encoder(
                self.pipeline._model, self.pipeline._loras.text_changes, **options
            )
        self._found = dict(NOTHING)
        pipe = self.pipeline._pipe
        pipe.text_encoder.register_forward_pre_hook(lambda *_: self._count("prompts"))
        pipe.vae.encoder.register_forward_pre_hook(lambda *_: self._count("references"))

    def _count(self, part: str) -> None:
        self._found[part] += 1

    def edit(self, image: PIL.Image.Image | None = None, **changes: object) -> dict[str, int]:
        """What an edit encodes."""
        self._found = dict(NOTHING)
        params = dataclasses.replace(PARAMS, **changes)  # type: ignore[arg-type]
        self.image = self.pipeline.edit(params, [image or gradient()]).images[0]
        return self._found


@pytest.fixture
def counted(tiny_model: Path) -> Counted:
    found = Counted(tiny_model)
    assert found.edit() == WHOLE
    return found


def test_another_seed_encodes_nothing_and_has_the_bits_of_a_fresh_model(
    counted: Counted, tiny_model: Path
) -> None:
    assert counted.edit(seed=2) == NOTHING

    fresh = Counted(tiny_model)
    fresh.edit(seed=2)
    assert np.array_equal(np.asarray(counted.image), np.asarray(fresh.image))


def test_only_what_changed_is_encoded(counted: Counted) -> None:
    assert counted.edit(prompt="b") == {"prompts": 1, "references": 0}
    assert counted.edit(negative_prompt="dark") == {"prompts": 1, "references": 0}
    assert counted.edit(image=gradient(shift=1)) == WHOLE
    assert counted.edit(image=gradient(64, 96)) == WHOLE
    # the tiny model's references have their own area, whatever the output's is
    assert counted.edit(size=(288, 256)) == NOTHING
    assert counted.edit() == NOTHING


def test_images_of_the_same_bytes_and_other_sides_differ(counted: Counted) -> None:
    flat = PIL.Image.new("RGB", (96, 64)), PIL.Image.new("RGB", (64, 96))
    assert flat[0].tobytes() == flat[1].tobytes()
    assert [counted.edit(image=image) for image in flat] == [WHOLE, WHOLE]


def test_loras_count_where_they_change_the_text_encoder(counted: Counted, tmp_path: Path) -> None:
    linears = counted.pipeline.linears
    text, image = (
        write_lora(tmp_path / f"{index}.safetensors", random_pairs(linears, [name]), prefix="")
        for index, name in enumerate((TEXT_LAYER, "transformer_blocks.0.attn.to_q"))
    )

    def stack(*loras: tuple[Path, float]) -> tuple[LoraRef, ...]:
        return tuple(LoraRef(str(path), scale) for path, scale in loras)

    prompts = {"prompts": 2, "references": 0}
    assert counted.edit(loras=stack((image, 1.0))) == NOTHING
    assert counted.edit(loras=stack((text, 1.0))) == prompts
    assert counted.edit(loras=stack((text, 0.5))) == prompts
    assert counted.edit(loras=stack((text, 1.0))) == NOTHING
    assert counted.edit(loras=stack((text, 0.0))) == NOTHING


def test_memory_is_bounded(tiny_model: Path) -> None:
    # the last entry is kept, whatever its size: each edit finds that of the one before gone
    small, none = Counted(tiny_model, max_bytes=1), Counted(tiny_model, max_bytes=0)
    for counted in (small, none):
        assert [counted.edit(), counted.edit(seed=2)] == [WHOLE, WHOLE]
    assert len(small.pipeline._encoder._kept) == 1
    assert len(none.pipeline._encoder._kept) == 0
    assert encoding.CACHE_BYTES == 256 * 2**20


def test_encoding_that_fails_keeps_nothing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Counted(tiny_model)
    vae = counted.pipeline._pipe.vae
    with monkeypatch.context() as patch:
        patch.setattr(vae, "encode", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            counted.edit()
    # both prompts had been encoded before
    assert counted.edit() == {"prompts": 0, "references": 1}
