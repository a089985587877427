"""Prompts and references are encoded once for the same content, and the image stays the same."""

import dataclasses
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from pipelines.api.load_options import ForwardName
from pipelines.api.messages import Stage
from pipelines.api.params import EditParams, LoraRef
from pipelines.engine.edit_result import Progress
from pipelines.engine.encoding import CACHE_BYTES, EncodeCache, PromptKey, ReferencesKey
from pipelines.engine.families.family import References
from pipelines.engine.loading import load_model
from pipelines.engine.pipeline import EditPipeline
from tests.conftest import gradient
from tests.lora_files import random_pairs, write_lora

PARAMS = EditParams(prompt="a", seed=1, size=(256, 256), num_inference_steps=2, num_previews=1)
TEXT_LAYERS = (
    "text_encoder.model.language_model.layers.1.mlp.down_proj",
    "text_encoder.model.visual.blocks.0.attn.qkv",
)
TRANSFORMER_LAYER = "transformer_blocks.0.attn.to_q"
# Calls of the text encoder and of the VAE's encoder, in an edit with CFG and one reference.
EVERYTHING = (2, 1)
PROMPTS = (2, 0)
NOTHING = (0, 0)


class CountingPipeline:
    """A pipeline that counts the calls of its encoders."""

    def __init__(
        self,
        model: Path,
        *,
        encoded_bytes: int = CACHE_BYTES,
        forward: ForwardName = ForwardName.AUTO,
    ) -> None:
        self.pipeline = EditPipeline(
            load_model(model, torch.float32),
            torch.device("cpu"),
            forward=forward,
            encoded_bytes=encoded_bytes,
        )
        self.image = np.empty(0)
        self._calls = [0, 0]
        pipe = self.pipeline._pipe
        pipe.text_encoder.register_forward_pre_hook(lambda *_: self._count(0))
        pipe.vae.encoder.register_forward_pre_hook(lambda *_: self._count(1))

    def _count(self, part: int) -> None:
        self._calls[part] += 1

    def edit(
        self,
        *images: PIL.Image.Image,
        on_progress: Callable[[Progress], None] = lambda progress: None,
        **changes: object,
    ) -> tuple[int, ...]:
        """The calls of the encoders during an edit."""
        self._calls = [0, 0]
        params = dataclasses.replace(PARAMS, **changes)  # type: ignore[arg-type]
        result = self.pipeline.edit(params, images or [gradient()], on_progress)
        self.image = np.asarray(result.images[0])
        return tuple(self._calls)


@pytest.fixture
def counting(tiny_model: Path) -> CountingPipeline:
    """A pipeline after its first edit."""
    counting = CountingPipeline(tiny_model)
    assert counting.edit() == EVERYTHING
    return counting


def fresh_image(model: Path, *images: PIL.Image.Image, **changes: object) -> np.ndarray:
    fresh = CountingPipeline(model)
    fresh.edit(*images, **changes)
    return fresh.image


def test_another_seed_encodes_nothing_and_gives_the_image_of_a_fresh_pipeline(
    counting: CountingPipeline, tiny_model: Path
) -> None:
    assert counting.edit(seed=2) == NOTHING
    assert np.array_equal(counting.image, fresh_image(tiny_model, seed=2))
    assert (counting.pipeline.encoded.hits, counting.pipeline.encoded.misses) == (3, 3)


def test_another_prompt_is_encoded_and_the_rest_is_found(
    counting: CountingPipeline, tiny_model: Path
) -> None:
    assert counting.edit(prompt="b") == (1, 0)
    assert np.array_equal(counting.image, fresh_image(tiny_model, prompt="b"))
    assert counting.edit(negative_prompt="dark") == (1, 0)
    assert counting.edit(true_cfg_scale=1.0) == NOTHING


def test_equal_prompts_are_encoded_once(tiny_model: Path) -> None:
    assert CountingPipeline(tiny_model).edit(negative_prompt=PARAMS.prompt) == (1, 1)


def test_other_images_are_encoded(counting: CountingPipeline, tiny_model: Path) -> None:
    one, two = gradient(), gradient(shift=1)
    assert counting.edit(two) == EVERYTHING
    assert np.array_equal(counting.image, fresh_image(tiny_model, two))
    assert counting.edit(one, two) == (2, 2)
    assert counting.edit(two, one) == (2, 2)
    assert counting.edit(one) == NOTHING


def test_images_of_the_same_bytes_and_other_sizes_are_encoded(counting: CountingPipeline) -> None:
    wide, tall = (PIL.Image.new("RGB", size) for size in ((96, 64), (64, 96)))
    assert wide.tobytes() == tall.tobytes()
    assert counting.edit(wide) == EVERYTHING
    assert counting.edit(tall) == EVERYTHING


def test_another_area_is_encoded(counting: CountingPipeline) -> None:
    pipeline, model = counting.pipeline, counting.pipeline._model
    # references of the output's area, as the field's documentation has it
    spec = dataclasses.replace(model.spec, reference_area=None)
    pipeline._model = dataclasses.replace(model, spec=spec)
    assert counting.edit() == (0, 1)
    assert counting.edit(size=(288, 256)) == (0, 1)

    spec = dataclasses.replace(model.spec, condition_area=84 * 84)
    pipeline._model = dataclasses.replace(model, spec=spec)
    assert counting.edit() == PROMPTS


def test_loras_count_if_they_change_the_text_encoder(
    counting: CountingPipeline, tiny_model: Path, tmp_path: Path
) -> None:
    linears = counting.pipeline.linears
    files = {
        name: write_lora(
            tmp_path / f"{index}.safetensors", random_pairs(linears, [name]), prefix=""
        )
        for index, name in enumerate((*TEXT_LAYERS, TRANSFORMER_LAYER))
    }

    def stack(**scales: float) -> tuple[LoraRef, ...]:
        names = {"language": TEXT_LAYERS[0], "vision": TEXT_LAYERS[1], "other": TRANSFORMER_LAYER}
        return tuple(LoraRef(str(files[names[key]]), scale) for key, scale in scales.items())

    assert counting.edit(loras=stack(other=1.0)) == NOTHING
    assert counting.edit(loras=stack(language=0.0)) == NOTHING
    for loras in (
        stack(language=1.0),
        stack(vision=1.0),
        stack(language=1.0, vision=1.0),
        stack(language=0.5),
    ):
        assert counting.edit(loras=loras) == PROMPTS
        assert counting.edit(loras=loras, seed=2) == NOTHING
    assert np.array_equal(
        counting.image, fresh_image(tiny_model, loras=stack(language=0.5), seed=2)
    )
    # the adapter is composed again, from the same files for the text encoder
    assert counting.edit(loras=stack(other=0.5, language=0.5)) == NOTHING
    assert counting.edit(loras=()) == NOTHING


def test_loras_larger_than_the_cache_do_not_fill_it(tiny_model: Path, tmp_path: Path) -> None:
    counting = CountingPipeline(tiny_model, encoded_bytes=2**16)
    linears = counting.pipeline.linears
    pairs = random_pairs(linears, TEXT_LAYERS, rank=256)
    assert sum(pair.up.nbytes + pair.down.nbytes for pair in pairs.values()) > 2**16
    loras = (LoraRef(str(write_lora(tmp_path / "a.safetensors", pairs, prefix="")), 1.0),)

    assert counting.edit(loras=loras) == EVERYTHING
    assert counting.edit(loras=loras, seed=2) == NOTHING


def test_replaced_lora_file_is_encoded(counting: CountingPipeline, tmp_path: Path) -> None:
    path, linears = tmp_path / "a.safetensors", counting.pipeline.linears
    for seed in (1, 2):
        new = write_lora(
            tmp_path / "new", random_pairs(linears, TEXT_LAYERS[:1], seed=seed), prefix=""
        )
        shutil.move(new, path)
        assert counting.edit(loras=(LoraRef(str(path), 1.0),)) == PROMPTS


@pytest.mark.parametrize("report", [1, 2, 3])
def test_edit_canceled_while_it_encodes_caches_nothing(tiny_model: Path, report: int) -> None:
    counting = CountingPipeline(tiny_model)
    seen: list[Progress] = []

    def cancel(progress: Progress) -> None:
        seen.append(progress)
        if [item.stage for item in seen].count(Stage.ENCODE) == report:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        counting.edit(on_progress=cancel)

    assert counting.pipeline.encoded.total_bytes == 0
    assert counting.edit() == EVERYTHING


def test_encoding_that_fails_caches_nothing(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    counting = CountingPipeline(tiny_model)
    with monkeypatch.context() as patch:
        patch.setattr(counting.pipeline._pipe.vae, "encode", lambda *_, **__: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            counting.edit()

    assert counting.pipeline.encoded.total_bytes == 0
    assert counting.edit() == EVERYTHING


def test_edit_canceled_after_encoding_keeps_it(tiny_model: Path) -> None:
    counting = CountingPipeline(tiny_model)

    def cancel(progress: Progress) -> None:
        if progress.stage is Stage.DENOISE:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        counting.edit(on_progress=cancel)
    assert counting.edit() == NOTHING


@pytest.mark.parametrize("forward", [ForwardName.FAST, ForwardName.STOCK])
def test_edits_leave_cached_tensors_as_they_are(tiny_model: Path, forward: ForwardName) -> None:
    counting = CountingPipeline(tiny_model, forward=forward)
    counting.edit()
    tensors = [
        entry.latents if isinstance(entry, References) else entry
        for entry in counting.pipeline.encoded._entries._entries.values()
    ]
    before = [tensor.clone() for tensor in tensors]
    versions = [tensor._version for tensor in tensors]

    assert counting.edit(seed=2, num_outputs=2) == NOTHING
    assert all(map(torch.equal, tensors, before))
    assert [tensor._version for tensor in tensors] == versions


def test_cache_of_no_bytes_is_off(tiny_model: Path) -> None:
    counting = CountingPipeline(tiny_model, encoded_bytes=0)
    assert [counting.edit(), counting.edit()] == [EVERYTHING, EVERYTHING]


def test_cache_drops_the_least_recently_used_beyond_its_bytes() -> None:
    cache = EncodeCache(max_bytes=100)
    keys = [PromptKey(str(index), (), 1, ()) for index in range(4)]
    for key in keys[:3]:
        cache.put(key, torch.zeros(10))
        cache.get(keys[0])
    assert [cache.get(key) is not None for key in keys] == [True, False, True, False]
    assert cache.total_bytes == 80

    # one that is too large displaces nothing
    cache.put(keys[3], torch.zeros(26))
    references = References(torch.zeros(1, 26, 1), ((1, 1, 26),))
    cache.put(ReferencesKey((), 1), references)
    assert cache.total_bytes == 80


def test_cache_counts_the_whole_memory_of_a_view() -> None:
    cache = EncodeCache(max_bytes=100)
    cache.put(PromptKey("a", (), 1, ()), torch.zeros(20)[:5])
    assert cache.total_bytes == 80
