"""A file is read once while it is unchanged, and the caches are bounded."""

import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pipelines.api.errors import LoraInvalid, LoraNotFound
from pipelines.api.params import LoraRef
from pipelines.engine.bounded_cache import BoundedCache
from pipelines.engine.lora import Adapter, Lora, cache
from pipelines.engine.lora.cache import LoraCache
from pipelines.engine.pipeline import EditPipeline
from tests.lora_files import Linears, random_pairs, write_lora
from tests.pipelines.engine.lora.conftest import CPU, MODULES, assert_exact, edit

ROOT = Path(__file__).parents[4]
MAX_GROWTH_BYTES = 2_000_000


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files in the order in which they were read."""
    names: list[str] = []
    original = cache.read_lora

    def counted(path: Path, linears: Linears, *, pinned: bool = False) -> Lora:
        names.append(path.stem)
        return original(path, linears, pinned=pinned)

    monkeypatch.setattr(cache, "read_lora", counted)
    return names


@pytest.fixture
def write(linears: Linears, tmp_path: Path) -> Callable[..., Path]:
    """Write a LoRA of a fixed size under a name, with values from a seed."""

    def write(name: str, seed: int = 0) -> Path:
        pairs = random_pairs(linears, MODULES, seed=seed)
        return write_lora(tmp_path / f"{name}.safetensors", pairs)

    return write


@pytest.fixture
def make(linears: Linears) -> Callable[..., LoraCache]:
    def make(**bounds: int) -> LoraCache:
        return LoraCache(linears, no_weight, CPU, torch.float32, **bounds)

    return make


def no_weight(name: str) -> torch.Tensor:
    raise AssertionError(f"a plain LoRA needs no weight of {name}")


def change(adapter: Adapter) -> dict[str, torch.Tensor]:
    pairs = {name: layer.low_rank for name, layer in adapter.items()}
    return {name: pair.up.double() @ pair.down.double() for name, pair in pairs.items() if pair}


def test_file_is_read_once_over_many_edits(
    tiny_model: Path, reads: list[str], write: Callable[..., Path]
) -> None:
    pipeline = EditPipeline.load(tiny_model, device="cpu", dtype=torch.float32)
    one, two = write("one"), write("two", seed=1)
    pipeline.preload([LoraRef(str(one))])

    for scale in (1.0, 0.5, 1.0, 0.0):
        edit(pipeline, (one, scale), (two, 1.0), (one, 2.0))

    assert sorted(reads) == ["one", "two"]


def test_file_in_memory_is_a_hit_and_any_other_a_miss(
    make: Callable[..., LoraCache], write: Callable[..., Path]
) -> None:
    loras, one, two = make(), write("one"), write("two", seed=1)
    assert (loras.hits, loras.misses, loras.host_bytes, loras.device_bytes) == (0, 0, 0, 0)
    loras.adapter([(one, 1.0)])
    assert (loras.hits, loras.misses) == (0, 1)
    loras.adapter([(one, 0.5), (two, 1.0)])
    loras.adapter([(one, 0.5), (two, 1.0)])

    assert (loras.hits, loras.misses) == (3, 2)
    assert loras.host_bytes > 0
    assert loras.device_bytes > 0


def test_another_scale_composes_again_without_reading(
    make: Callable[..., LoraCache], reads: list[str], write: Callable[..., Path]
) -> None:
    loras, path = make(), write("one")
    first = loras.adapter([(path, 1.0)])

    assert_exact(
        change(loras.adapter([(path, 3.0)])),
        {name: 3 * delta for name, delta in change(first).items()},
        1e-6,
    )
    assert loras.adapter([(path, 1.0)]) is first
    assert reads == ["one"]


def test_file_of_scale_zero_adds_nothing_to_the_adapter(
    make: Callable[..., LoraCache], reads: list[str], write: Callable[..., Path]
) -> None:
    loras, one, two = make(), write("one"), write("two", seed=1)

    assert loras.adapter([(one, 0.0), (two, 0.0)]) == {}
    assert loras.adapter([(one, 1.0), (two, 0.0)]) is loras.adapter([(one, 1.0)])
    assert reads == ["one", "two"]


def test_scales_stay_with_their_files_in_any_order(
    make: Callable[..., LoraCache], write: Callable[..., Path]
) -> None:
    loras, one, two = make(), write("one"), write("two", seed=1)
    single = {path: change(loras.adapter([(path, 1.0)])) for path in (one, two)}

    for stack in ([(one, 1.0), (two, 3.0)], [(two, 1.0), (one, 3.0)], [(one, 3.0), (two, 1.0)]):
        expected = {
            name: sum(scale * single[path][name] for path, scale in stack) for name in MODULES
        }
        assert_exact(change(loras.adapter(stack)), expected, 2e-6)


@pytest.mark.parametrize("in_place", [True, False])
def test_replaced_file_is_read_again(
    make: Callable[..., LoraCache], reads: list[str], write: Callable[..., Path], in_place: bool
) -> None:
    loras, path, other = make(), write("one"), write("other", seed=1)
    before = path.stat()
    first = change(loras.adapter([(path, 1.0)]))
    if in_place:
        path.write_bytes(other.read_bytes())
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns + 1))
    else:
        os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
        other.replace(path)
    assert path.stat().st_size == before.st_size

    second = change(loras.adapter([(path, 1.0)]))

    assert reads == ["one", "one"]
    assert not any(torch.equal(first[name], second[name]) for name in MODULES)


def test_adapter_of_peft_is_read_again_when_its_configuration_changes(
    make: Callable[..., LoraCache], linears: Linears, tmp_path: Path
) -> None:
    pairs = random_pairs(linears, MODULES, rank=4)
    path = write_lora(tmp_path / "adapter_model.safetensors", pairs, prefix="base_model.model.")
    config = tmp_path / "adapter_config.json"
    config.write_text(json.dumps({"r": 4, "lora_alpha": 4}))
    loras = make()
    first = change(loras.adapter([(path, 1.0)]))

    config.write_text(json.dumps({"r": 4, "lora_alpha": 12}))

    assert_exact(
        change(loras.adapter([(path, 1.0)])),
        {name: 3 * delta for name, delta in first.items()},
        1e-6,
    )


def test_host_bound_evicts_the_least_recently_used_file(
    make: Callable[..., LoraCache], reads: list[str], write: Callable[..., Path]
) -> None:
    one, two, three = write("one"), write("two"), write("three")
    loras = make(host_bytes=int(2.5 * one.stat().st_size), device_bytes=1)

    for path in (one, two, one, three, one, three, two):
        loras.adapter([(path, 1.0)])

    assert reads == ["one", "two", "three", "two"]


def test_stack_larger_than_the_host_bound_is_still_composed(
    make: Callable[..., LoraCache], linears: Linears, write: Callable[..., Path]
) -> None:
    paths = [write(name, seed) for seed, name in enumerate(("one", "two", "three"))]
    loras, roomy = make(host_bytes=1, device_bytes=1), make()
    stack = [(path, 1.0) for path in paths]

    assert_exact(change(loras.adapter(stack)), change(roomy.adapter(stack)))


def test_device_bound_evicts_the_oldest_adapter(
    make: Callable[..., LoraCache], reads: list[str], write: Callable[..., Path]
) -> None:
    one, two, three = write("one"), write("two", 1), write("three", 2)
    loras = make(device_bytes=int(2.5 * one.stat().st_size))
    adapters = {path: loras.adapter([(path, 1.0)]) for path in (one, two, three)}

    assert loras.adapter([(three, 1.0)]) is adapters[three]
    assert loras.adapter([(two, 1.0)]) is adapters[two]
    again = loras.adapter([(one, 1.0)])
    assert again is not adapters[one]
    assert_exact(change(again), change(adapters[one]))
    assert reads == ["one", "two", "three"]


def test_bounded_cache_keeps_its_newest_entry_even_beyond_the_bound() -> None:
    sizes: BoundedCache[int] = BoundedCache(10, lambda value: value)
    sizes.put("small", 3)
    sizes.put("large", 50)

    assert sizes.get("small") is None
    assert sizes.get("large") == 50
    assert sizes.total_bytes == 50


def test_preloaded_file_is_not_read_again(
    make: Callable[..., LoraCache], reads: list[str], write: Callable[..., Path]
) -> None:
    loras, one, two = make(), write("one"), write("two", seed=1)

    loras.preload([one, two])
    loras.adapter([(two, 1.0), (one, 1.0)])

    assert reads == ["one", "two"]


def test_file_is_read_once_when_two_threads_want_it_during_the_read(
    make: Callable[..., LoraCache],
    reads: list[str],
    write: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started, go_on = threading.Event(), threading.Event()
    counted = cache.read_lora

    def blocked(path: Path, linears: Linears, *, pinned: bool = False) -> Lora:
        started.set()
        assert go_on.wait(10)
        return counted(path, linears, pinned=pinned)

    monkeypatch.setattr(cache, "read_lora", blocked)
    loras, path = make(), write("one")
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(loras.preload, [[path], [path]]))
        assert started.wait(10)
        list(threads.map(loras.preload, [[path], [path]]))
        composed = threads.submit(loras.adapter, [(path, 1.0)])
        go_on.set()
        assert set(composed.result(10)) == set(MODULES)

    assert reads == ["one"]


def test_preloaded_faulty_file_raises_only_when_it_is_used(
    make: Callable[..., LoraCache], write: Callable[..., Path], tmp_path: Path
) -> None:
    loras, good = make(), write("good")
    bad = tmp_path / "bad.safetensors"
    bad.write_bytes(good.read_bytes()[:-10])

    loras.preload([bad, good, tmp_path / "away.safetensors"])

    assert set(loras.adapter([(good, 1.0)])) == set(MODULES)
    with pytest.raises(LoraInvalid, match=r"bad\.safetensors is truncated"):
        loras.adapter([(bad, 1.0)])
    with pytest.raises(LoraNotFound, match=r"away\.safetensors is gone"):
        loras.adapter([(tmp_path / "away.safetensors", 1.0)])


def test_faulty_file_is_applied_after_it_is_repaired(
    make: Callable[..., LoraCache], write: Callable[..., Path], tmp_path: Path
) -> None:
    loras, good = make(), write("good")
    path = tmp_path / "mended.safetensors"
    path.write_bytes(good.read_bytes()[:-10])
    with pytest.raises(LoraInvalid):
        loras.adapter([(path, 1.0)])

    path.write_bytes(good.read_bytes())

    assert set(loras.adapter([(path, 1.0)])) == set(MODULES)


@pytest.mark.complete
def test_memory_stays_flat_over_500_switches(tmp_path: Path) -> None:
    """In a separate process, without the memory of other tests."""
    script = [sys.executable, "-m", "tests.pipelines.engine.lora.memory_growth", str(tmp_path)]

    done = subprocess.run(script, cwd=ROOT, capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stderr
    grown = json.loads(done.stdout)
    assert grown["reads"] >= 500
    assert grown["second_half_bytes"] < MAX_GROWTH_BYTES
