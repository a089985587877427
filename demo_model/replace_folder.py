"""Replacement of a model's folder by a new one, only once that is complete."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

CARD = "README.md"


@contextmanager
def new_folder(path: Path) -> Iterator[Path]:
    """A folder beside `path` to write into, which replaces `path` after the block.

    The old folder's card is kept, as it is written by hand. When the block raises, the old folder
    stays as it was.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{path.name}-", dir=path.parent) as beside:
        made, old = Path(beside, "new"), Path(beside, "old")
        yield made
        if (path / CARD).is_file():
            shutil.copy2(path / CARD, made / CARD)
        if path.exists():
            os.rename(path, old)
        try:
            os.rename(made, path)
        except OSError:
            # otherwise it would be removed with the temporary folder
            if old.exists():
                os.rename(old, path)
            raise
