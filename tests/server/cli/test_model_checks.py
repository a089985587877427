"""What the doctor says of models: whether they fit, and what makes a half one whole."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from pipelines.api.families import QWEN_IMAGE_EDIT_PLUS
from pipelines.files.memory_fit import GIB, fits_on_gpu
from pipelines.files.model_files import inspect_model
from server.cli.advice import Pull, Serve
from server.cli.checks import Check, State
from server.cli.machine import Gpu
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
def test_way_that_fits_is_the_fastest_with_room_for_it(
    device_gib: int, host_gib: int, expected: str | None
) -> None:
    fits = fits_on_gpu(
        QWEN_IMAGE_EDIT_PLUS.parameters,
        bytes_each=2,
        device_bytes=device_gib * GIB,
        host_bytes=host_gib * GIB,
    )

    assert next((fit.offload for fit in fits if fit.fits), None) == expected


def fit_checks(model: Path, device: Gpu, **settings: Any) -> list[Check]:
    """The checks of memory for a served model, which counts as if it were the published one."""
    chosen = Settings(model=str(model), **settings)
    return list(check_fit(chosen, torch_with(device), BIG_HOST))


def test_served_model_that_fits_only_with_offload_stops_and_says_which(tiny_model: Path) -> None:
    # the tiny model wants 1 GiB beside its 2.2 MB
    small = Gpu(0, "NVIDIA X", GIB + 2 * 2**20, GIB, "9.0")

    whole = fit_checks(tiny_model, small)
    offloaded = fit_checks(tiny_model, small, offload="model")

    assert (whole[-1].state, whole[-1].do) == (State.STOP, Serve({"offload": "model"}))
    assert all(check.state is not State.STOP for check in offloaded)


def test_published_model_is_proposed_where_it_would_fit(tmp_path: Path) -> None:
    settings = Settings(weights_dir=tmp_path)
    found = list(check_fit(settings, torch_with(gpu(24)), BIG_HOST))

    message = "\n".join(check.text for check in found)
    assert (
        "--offload none needs 60 GiB on the GPU and 4 GiB of host memory: does not fit" in message
    )
    assert "--offload group needs 8 GiB on the GPU and 58 GiB of host memory: fits" in message
    assert "the published model has 57.7 GB to fetch" in message
    assert all(check.state is not State.STOP for check in found)


def test_truncated_weights_and_missing_configuration_are_named(
    tiny_model: Path, tmp_path: Path
) -> None:
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


def half_model(tiny_model: Path, folder: Path) -> Path:
    shutil.copytree(tiny_model, folder)
    (folder / "vae" / "diffusion_pytorch_model.safetensors").unlink()
    return folder


@pytest.mark.parametrize(
    ("name", "do"),
    [
        ("Qwen-Image-Edit-2509", Pull("2509")),
        ("Qwen-Image-Edit-2511", Pull("2511")),
        ("Qwen/Qwen-Image-Edit-2511", Pull("2511", "Qwen/Qwen-Image-Edit-2511")),
        ("someone/finetune", Pull("someone/finetune")),
        ("my-2509", None),
        ("someone's/2509", None),
    ],
)
def test_half_model_is_mended_from_where_its_name_says(
    tiny_model: Path, tmp_path: Path, name: str, do: Pull | None
) -> None:
    half_model(tiny_model, tmp_path / "models" / name)

    [check] = check_models(Settings(weights_dir=tmp_path, model=name))

    assert (check.state, check.do) == (State.STOP, do)
    assert ("fetch it again from there" in check.text) == (do is None)


@pytest.mark.parametrize(
    ("name", "repository", "do"),
    [
        ("my-2509", "Qwen/Qwen-Image-Edit-2509", Pull("2509", "my-2509")),
        ("mine", "someone/finetune", Pull("someone/finetune", "mine")),
        ("Qwen-Image-Edit-2511", "someone/2511", Pull("someone/2511", "Qwen-Image-Edit-2511")),
        ("my model", "someone/finetune", None),
    ],
)
def test_half_model_is_mended_from_where_it_was_pulled_from(
    tiny_model: Path, tmp_path: Path, name: str, repository: str, do: Pull | None
) -> None:
    folder = half_model(tiny_model, tmp_path / "models" / name)
    note_origin(folder, repository)

    [check] = check_models(Settings(weights_dir=tmp_path, model=name))

    assert (check.state, check.do) == (State.STOP, do)


def test_half_model_in_the_cache_is_made_whole_under_the_name_it_is_asked_for(
    tiny_model: Path, tmp_path: Path, hub_cache: Path
) -> None:
    """The server looks into the weights folder first, so that the same option serves it then."""
    name = "Qwen/Qwen-Image-Edit-2511"
    half_model(tiny_model, hub_cache / "models--Qwen--Qwen-Image-Edit-2511/snapshots" / COMMIT)

    found = list(check_models(Settings(weights_dir=tmp_path / "weights", model=name)))

    assert (found[0].state, found[0].do) == (State.STOP, Pull("2511", name))


def test_half_model_elsewhere_is_not_pulled_to_another_place(
    tiny_model: Path, tmp_path: Path
) -> None:
    folder = half_model(tiny_model, tmp_path / "elsewhere" / "Qwen-Image-Edit-2509")

    [check] = check_models(Settings(weights_dir=tmp_path / "weights", model=str(folder)))

    assert (check.state, check.do) == (State.STOP, None)
