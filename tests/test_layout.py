"""The house as it is built: floors, file lengths, pins, and what the documents must name."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from server.settings import PREFIX, Settings

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50

CODE = sorted(path for room in ("server", "pipelines") for path in (ROOT / room).rglob("*.py"))
ROOMS = [str(path.relative_to(ROOT)) for path in CODE if path.name != "__init__.py"]
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def read(name: str) -> str:
    return (ROOT / name).read_text()


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Each function of a file and how many lines it has."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("name", Settings.model_fields)
def test_readme_shows_every_setting(name: str) -> None:
    assert f"{PREFIX}{name.upper()}" in read("README.md")


@pytest.mark.parametrize("room", ROOMS)
def test_map_of_the_house_names_every_file(room: str) -> None:
    assert room in read("CONTRIBUTING.md")


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_file_is_short_enough_to_be_read_at_once(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE_LINES


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_functions_are_short_enough_to_be_read_at_once(path: Path) -> None:
    assert [found for found in functions(path) if found[1] > MAX_FUNCTION_LINES] == []


@pytest.mark.parametrize("room", ROOMS)
def test_file_is_not_named_like_a_module_of_the_standard_library(room: str) -> None:
    assert Path(room).stem not in sys.stdlib_module_names


def test_every_pin_is_one_exact_public_version() -> None:
    lines = [line.partition("#")[0].strip() for line in read("constraints.txt").splitlines()]
    pins = [line.partition(";")[0].strip() for line in lines if line]

    assert pins
    assert [pin for pin in pins if "==" not in pin or "+" in pin] == []


def test_torch_is_pinned_to_the_version_that_was_measured() -> None:
    assert "torch==2.13.0" in read("constraints.txt").split()


def test_floors_import_only_from_below() -> None:
    checked = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_server_starts_without_the_models_libraries() -> None:
    code = f"import server.cli, sys; print([n for n in {HEAVY} if n in sys.modules])"

    loaded = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"
