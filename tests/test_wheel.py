"""The contents of the wheel, and an edit with it outside a checkout."""

import os
import re
import shutil
import site
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx2
import PIL.Image
import pytest

from tests.live_server import PATIENCE_S, STOP_TIMEOUT_S, until

ROOT = Path(__file__).parents[1]
INPUT = ROOT / "docs" / "demo" / "input.png"
SOURCES = ("server", "pipelines", "demo_model", "tests", "benchmarks", "docs", "weights/demo")
FILES = ("pyproject.toml", "README.md", "LICENSE", "weights/README.md")
LISTENS = re.compile(r"listens on (http://\S+)")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the checkout that also contains a user's model and LoRA."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in FILES:
        shutil.copy(ROOT / name, source / name)
    (source / "weights" / "loras").mkdir()
    for path in (ROOT / "weights" / "loras").glob("demo-*.safetensors"):
        shutil.copy(path, source / "weights" / "loras")
    for name in ("loras/private.safetensors", "models/private/model_index.json"):
        path = source / "weights" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    built = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", f"--wheel-dir={built}", source)
    return next(built.glob("*.whl"))


@pytest.fixture(scope="module")
def command(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the wheel beside the current dependencies; returns the command `qwen-edit`."""
    environment = tmp_path_factory.mktemp("environment") / "venv"
    run(sys.executable, "-m", "venv", "--without-pip", environment)
    python = environment / "bin" / "python"
    pip("install", "--no-compile", wheel, python=python)
    packages = next(environment.glob("lib/python*/site-packages"))
    # Folders in a .pth file join the path, but their own .pth files are not read: this leaves out
    # the editable install of the checkout.
    (packages / "dependencies.pth").write_text("\n".join(site.getsitepackages()))
    return environment / "bin" / "qwen-edit"


def pip(verb: str, *arguments: str | Path, python: Path | str = sys.executable) -> None:
    options = ["--disable-pip-version-check", "--quiet", "--no-index", "--no-deps"]
    run(sys.executable, "-m", "pip", f"--python={python}", verb, *options, *arguments)


def run(*command: str | Path, **options: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def names_in(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


def outside(home: Path) -> Mapping[str, str]:
    """Return the environment of a user without a checkout and without settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("QWEN_EDIT_", "PYTHON"))}
    return {**kept, "HOME": str(home), "XDG_DATA_HOME": str(home / "share"), "NO_PROXY": "*"}


def test_wheel_contains_the_demo_model_and_loras_but_no_user_files(wheel: Path) -> None:
    names = {name for name in names_in(wheel) if ".dist-info/" not in name}
    shipped = {
        str(path.relative_to(ROOT))
        for path in [*ROOT.glob("weights/demo/**/*"), *ROOT.glob("weights/loras/demo-*")]
        if path.is_file()
    }

    assert {name for name in names if name.startswith("weights/")} == shipped
    assert {name.partition("/")[0] for name in names} == {"server", "pipelines", "weights"}


def test_wheel_contains_every_file_of_the_packages(wheel: Path) -> None:
    files = {
        str(path.relative_to(ROOT))
        for package in ("server", "pipelines")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }

    assert files - names_in(wheel) == set()


@pytest.fixture(scope="module")
def served(command: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    """Run `qwen-edit serve` without settings; yields its address and home folder."""
    home = tmp_path_factory.mktemp("home")
    (home / "here").mkdir()
    log = home / "server.log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [command, "serve", "--port", "0"],
            cwd=home / "here",
            env=outside(home),
            stdout=file,
            stderr=file,
        )
    try:
        yield until(lambda: address(process, log)), home
    finally:
        process.terminate()
        process.wait(STOP_TIMEOUT_S)


def address(process: subprocess.Popen[bytes], log: Path) -> str | None:
    assert process.poll() is None, log.read_text()
    match = LISTENS.search(log.read_text())
    return match[1] if match else None


def test_installed_wheel_edits_with_a_demo_lora_outside_a_checkout(
    command: Path, served: tuple[str, Path]
) -> None:
    url, home = served
    here = home / "here"
    options = ["--lora", "demo-mosaic:0.8", "--steps", "2", "--size", "256*320", "--server", url]

    run(
        *(command, "edit", INPUT, "-p", "Make the circle green", "-o", "edited.png", *options),
        cwd=here,
        env=outside(home),
        timeout=PATIENCE_S,
    )

    with PIL.Image.open(here / "edited.png") as edited:
        assert edited.size == (256, 320)
    assert [path.name for path in here.iterdir()] == ["edited.png"]
    assert (home / "share" / "qwen-edit-server" / "data" / "jobs.sqlite3").exists()


def test_installed_wheel_serves_the_page_and_lists_the_demo_loras(
    served: tuple[str, Path],
) -> None:
    url, _ = served

    page = httpx2.get(url)
    loras = httpx2.get(f"{url}/v1/loras").json()["items"]

    assert page.status_code == 200
    assert "gradio" in page.text
    assert [lora["name"] for lora in loras] == [
        "demo-mosaic.safetensors",
        "demo-outline.safetensors",
        "demo-sepia.safetensors",
    ]
