"""A folder whose files are served by unguessable names: who has a name may read the file."""

import re
import urllib.parse
from pathlib import Path


class ServedFolder:
    """Finds files by their names and by their URLs, and nothing that is not named like one."""

    def __init__(self, folder: Path, route: str, name_pattern: re.Pattern[str]) -> None:
        self._folder = folder
        self._route = route
        self._name_pattern = name_pattern

    def path(self, name: str) -> Path | None:
        """The file of this name, or None when there is none."""
        if not self._name_pattern.fullmatch(name):
            return None
        path = self._folder / name
        return path if path.is_file() else None

    def route(self, name: str) -> str:
        """Where the file of this name is on this server (`/uploads/…`)."""
        return f"{self._route}/{name}"

    def path_of_url(self, url: str) -> Path | None:
        """The file that one of this server's own URLs names, whatever host it was reached under."""
        try:
            head, _, name = urllib.parse.urlsplit(url).path.rpartition("/")
        except ValueError:  # no URL at all; whoever fetches it will say so
            return None
        return self.path(name) if head.endswith(self._route) else None
