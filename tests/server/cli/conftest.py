"""What the tests of the command line share."""

from pathlib import Path

import pytest

from tests.conftest import encoded, gradient


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A picture file."""
    path = tmp_path / "cat.png"
    path.write_bytes(encoded(gradient()))
    return path
