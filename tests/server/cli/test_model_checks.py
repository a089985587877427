"""The doctor on models: whether they fit, and how to complete an incomplete one."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.api.load_options import Dtype, Offload
from pipelines.files.memory_fit import GIB, find_fits
from pipelines.files.model_files import inspect_model
from server.cli import model_checks
from server.cli.checks import Check, State
from server.cli.machine import Gpu, Host
from server.cli.model_checks import check_fit, check_models
from server.cli.pull.model import note_origin
from server.settings import Settings
from tests.fake_hub import COMMIT
from tests.server.cli.machines import BIG_HOST, gpu, torch_with


@pytest.mark.parametrize(
    ("device_gib", "host_gib", "expected"),
    [
        (80, 32, "none"),
        (80, 128, "none"),
        (48, 128, "model"),
        (24, 128, "group"),
        (24, 32, None),
        (6, 128, None),
    ],
)
def test_find_fits_lists_the_fastest_fitting_way_first(
    device_gib: int, host_gib: int, expected: str | None
) -> None:
    parameters = QWEN_IMAGE_EDIT_PLUS.parameters
    fits = find_fits(parameters, Dtype.BFLOAT16, [device_gib * GIB], host_gib * GIB)

    assert next((fit.offload for fit in fits if fit.fits), None) == expected


def fit_checks(model: Path, device: Gpu, **settings: Any) -> list[Check]:
    """The checks of memory for this model as the served one."""
    chosen = Settings(model=str(model), **settings)
    return list(check_fit(chosen, torch_with(device), BIG_HOST))


def test_check_fit_stops_with_the_offload_that_fits_when_the_chosen_one_does_not(
    tiny_model: Path,
) -> None:
    weights = 2 * sum(inspect_model(tiny_model).parameters.values())
    # an edit with a small model needs 1 GiB beside the weights
    small = Gpu(0, "NVIDIA X", GIB + weights - 1, GIB, "9.0")

    whole = fit_checks(tiny_model, small)
    offloaded = fit_checks(tiny_model, small, offload="model")

    assert (whole[-1].state, whole[-1].do) == (State.STOP, {"offload": "model"})
    assert all(check.state is not State.STOP for check in offloaded)


@pytest.mark.parametrize("device", ["cpu", "cpu,cuda:0"])
def test_check_fit_counts_host_memory_when_the_cpu_is_used(tiny_model: Path, device: str) -> None:
    settings = Settings(model=str(tiny_model), device=device, offload=Offload.GROUP)
    torch, small_host = torch_with(gpu(80)), Host(2, GIB // 2, GIB // 2, None)

    large = list(check_fit(settings, torch, BIG_HOST))
    small = list(check_fit(settings, torch, small_host))

    assert large[0].text == "this model: on the CPU needs 1 GiB of host memory: fits"
    assert all(check.state is not State.STOP for check in large)
    [stop] = [check for check in small if check.state is State.STOP]
    assert stop.do == {"model": "demo"}


def test_find_fits_counts_the_smallest_gpu_and_every_copy_in_host_memory() -> None:
    parameters = QWEN_IMAGE_EDIT_PLUS.parameters
    one = find_fits(parameters, Dtype.AUTO, [80 * GIB], 100 * GIB)
    two = find_fits(parameters, Dtype.AUTO, [80 * GIB, 48 * GIB], 100 * GIB)

    assert [fit.fits for fit in one] == [True, True, True]
    # 48 GiB hold no whole model, and the host holds no second copy
    assert [fit.fits for fit in two] == [False, False, False]


def test_check_models_lists_others_when_the_one_to_serve_is_unusable(
    tiny_model: Path, tmp_path: Path, hub_cache: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "models" / "second")
    first = tmp_path / "models" / "first"
    first.mkdir()
    (first / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')

    unusable, other = check_models(Settings(weights_dir=tmp_path))

    assert (unusable.state, unusable.do) == (State.STOP, {"model": "demo"})
    assert "first holds a FluxPipeline" in unusable.text
    assert (other.topic, other.state) == ("found", State.OK)
    assert other.text.startswith(f"second in {tmp_path / 'models'}: complete, ")


def test_check_fit_proposes_the_published_model_when_it_fits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_checks, "free_disk", lambda folder: 10**11)
    settings = Settings(weights_dir=tmp_path / "big disk")
    found = list(check_fit(settings, torch_with(gpu(24)), BIG_HOST))

    message = "\n".join(check.text for check in found)
    assert (
        "--offload none needs 60 GiB on the GPU and 4 GiB of host memory: does not fit" in message
    )
    assert "--offload group needs 8 GiB on the GPU and 58 GiB of host memory: fits" in message
    assert "the published model has 57.7 GB to download" in message
    assert all(check.state is not State.STOP for check in found)
    assert found[-1].do == f"qwen-edit pull 2511 --weights-dir '{tmp_path}/big disk'"


def test_check_fit_proposes_no_pull_when_the_disk_is_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(model_checks, "free_disk", lambda folder: 0)

    found = list(check_fit(Settings(weights_dir=tmp_path), torch_with(gpu(24)), BIG_HOST))

    assert (found[-1].topic, found[-1].state, found[-1].do) == ("disk", State.NOTE, None)


def test_inspect_model_names_truncated_and_missing_files(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_model, folder)
    weights = folder / "vae" / "diffusion_pytorch_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    (folder / "text_encoder" / "config.json").unlink()
    shutil.rmtree(folder / "tokenizer")

    problems = "; ".join(inspect_model(folder).problems)

    assert "text_encoder/config.json is missing" in problems
    assert "tokenizer/ is missing" in problems
    assert "vae/diffusion_pytorch_model.safetensors is truncated" in problems


def pulled(arguments: str | None, weights_dir: Path) -> str | None:
    return arguments and f"qwen-edit pull {arguments} --weights-dir {weights_dir}"


def incomplete_model(tiny_model: Path, folder: Path) -> Path:
    shutil.copytree(tiny_model, folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    return folder


@pytest.mark.parametrize(
    ("name", "pull"),
    [
        ("Qwen-Image-Edit-2509", "2509"),
        ("Qwen-Image-Edit-2511", "2511"),
        ("Qwen/Qwen-Image-Edit-2511", "2511 --name Qwen/Qwen-Image-Edit-2511"),
        ("someone/finetune", "someone/finetune"),
        ("my-2509", None),
        ("someone's/2509", None),
    ],
)
def test_check_models_advises_to_pull_by_the_name_of_an_incomplete_model(
    tiny_model: Path, tmp_path: Path, name: str, pull: str | None
) -> None:
    incomplete_model(tiny_model, tmp_path / "models" / name)

    [check] = check_models(Settings(weights_dir=tmp_path, model=name))

    assert (check.state, check.do) == (State.STOP, pulled(pull, tmp_path))
    assert ("download it again from there" in check.text) == (pull is None)


@pytest.mark.parametrize(
    ("name", "repository", "pull"),
    [
        ("my-2509", "Qwen/Qwen-Image-Edit-2509", "2509 --name my-2509"),
        ("mine", "someone/finetune", "someone/finetune --name mine"),
        ("Qwen-Image-Edit-2511", "someone/2511", "someone/2511 --name Qwen-Image-Edit-2511"),
        ("my model", "someone/finetune", None),
    ],
)
def test_check_models_advises_to_pull_from_the_origin_of_an_incomplete_model(
    tiny_model: Path, tmp_path: Path, name: str, repository: str, pull: str | None
) -> None:
    folder = incomplete_model(tiny_model, tmp_path / "models" / name)
    note_origin(folder, repository)

    [check] = check_models(Settings(weights_dir=tmp_path, model=name))

    assert (check.state, check.do) == (State.STOP, pulled(pull, tmp_path))


def test_check_models_advises_to_pull_a_cached_model_by_the_name_asked_for(
    tiny_model: Path, tmp_path: Path, hub_cache: Path
) -> None:
    """The weights folder comes before the cache, so the same option serves the pulled model."""
    name = "Qwen/Qwen-Image-Edit-2511"
    incomplete_model(
        tiny_model, hub_cache / "models--Qwen--Qwen-Image-Edit-2511/snapshots" / COMMIT
    )

    found = list(check_models(Settings(weights_dir=tmp_path / "weights", model=name)))

    assert (found[0].state, found[0].do) == (
        State.STOP,
        pulled(f"2511 --name {name}", tmp_path / "weights"),
    )


def test_check_models_advises_no_pull_when_the_model_is_outside_the_weights_folder(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = incomplete_model(tiny_model, tmp_path / "elsewhere" / "Qwen-Image-Edit-2509")

    [check] = check_models(Settings(weights_dir=tmp_path / "weights", model=str(folder)))

    assert (check.state, check.do) == (State.STOP, None)
