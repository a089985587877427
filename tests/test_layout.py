"""The layout of the code: layers, file lengths, pins, and the table of folders."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_FILE_LINES = 300
MAX_FUNCTION_LINES = 50

PACKAGES = ("server", "pipelines", "demo_model")
CODE = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
HEAVY = ("torch", "diffusers", "transformers", "peft", "accelerate", "safetensors")


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT))


def read(name: str) -> str:
    return (ROOT / name).read_text()


def functions(path: Path) -> Iterator[tuple[str, int]]:
    """Yield each function of a file and its number of lines."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, (node.end_lineno or node.lineno) - node.lineno + 1


def test_contributing_describes_every_folder_in_its_own_words() -> None:
    page = read("CONTRIBUTING.md")
    rows = [
        f"| `{shown(path.parent)}/` | {first_line(path)} |"
        for path in CODE
        if path.name == "__init__.py"
    ]

    assert [row for row in rows if row not in page] == []


def first_line(path: Path) -> str:
    return (ast.get_docstring(ast.parse(path.read_text())) or "").partition("\n")[0]


def test_every_module_has_a_docstring() -> None:
    assert [shown(path) for path in CODE if not first_line(path)] == []


def test_files_stay_short() -> None:
    lengths = {shown(path): len(path.read_text().splitlines()) for path in CODE}

    assert {name: lines for name, lines in lengths.items() if lines > MAX_FILE_LINES} == {}


def test_functions_stay_short() -> None:
    lengths = {(shown(path), name): lines for path in CODE for name, lines in functions(path)}

    assert {name: lines for name, lines in lengths.items() if lines > MAX_FUNCTION_LINES} == {}


def test_no_file_is_named_like_a_module_of_the_standard_library() -> None:
    files = [path for path in CODE if not path.name.startswith("__")]

    assert [shown(path) for path in files if path.stem in sys.stdlib_module_names] == []


def test_every_pin_is_one_exact_public_version() -> None:
    lines = [line.partition("#")[0].strip() for line in read("constraints.txt").splitlines()]
    pins = [line.partition(";")[0].strip() for line in lines if line]

    assert pins
    assert [pin for pin in pins if "==" not in pin or "+" in pin] == []


def test_torch_is_pinned_to_the_version_that_was_measured() -> None:
    assert "torch==2.13.0" in read("constraints.txt").split()


def test_folders_import_only_from_below() -> None:
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
