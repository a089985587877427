"""A model's folder that is made anew, and takes the old one's place only once it is whole."""

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

    The old folder's card stays, for nobody else writes it. When the block raises, the old folder
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
            # else the old one would be removed with what is beside it
            if old.exists():
                os.rename(old, path)
            raise
