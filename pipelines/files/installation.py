"""The folders of an installation: a checkout keeps its files beside the code, a wheel does not."""

import tomllib
from pathlib import Path

import platformdirs

PROJECT = "qwen-edit-server"
# The folder of the packages: the root of a checkout, or site-packages.
_ROOT = Path(__file__).parents[2]
# The demo model and its LoRAs, which a wheel holds beside the packages as a checkout does.
SHIPPED_WEIGHTS = _ROOT / "weights"


def is_checkout(root: Path = _ROOT) -> bool:
    """Return whether `root` is a checkout: it holds this project's `pyproject.toml`."""
    try:
        document = tomllib.loads((root / "pyproject.toml").read_text())
    except (OSError, ValueError):
        return False
    project = document.get("project")
    return isinstance(project, dict) and project.get("name") == PROJECT


def default_folder(name: str, root: Path = _ROOT) -> Path:
    """Return `name` in the working directory for a checkout, else in the user's data directory."""
    if is_checkout(root):
        return Path(name)
    return platformdirs.user_data_path(PROJECT, appauthor=False) / name
