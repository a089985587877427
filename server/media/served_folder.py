"""A folder whose files are served under unguessable names, which act as capabilities."""

import re
import urllib.parse
from pathlib import Path


class ServedFolder:
    """Finds files by name or URL; a name that does not match the pattern is never looked up."""

    def __init__(self, folder: Path, route: str, name_pattern: re.Pattern[str]) -> None:
        self._folder = folder
        self._route = route
        self._name_pattern = name_pattern

    def path(self, name: str) -> Path | None:
        """Return the file with this name, or None."""
        if not self._name_pattern.fullmatch(name):
            return None
        path = self._folder / name
        return path if path.is_file() else None

    def route(self, name: str) -> str:
        """Return the path of the file's URL on this server (`/uploads/…`)."""
        return f"{self._route}/{name}"

    def path_of_url(self, url: str) -> Path | None:
        """Return the file behind a URL of this server, under any host name, or None."""
        try:
            head, _, name = urllib.parse.urlsplit(url).path.rpartition("/")
        except ValueError:  # not a URL; fetching it reports that
            return None
        return self.path(name) if head.endswith(self._route) else None
