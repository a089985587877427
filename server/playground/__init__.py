"""The page at `/`, which runs its edits through the server's own queue."""

from server.playground.context import PageContext
from server.playground.mount import Playground

__all__ = ["PageContext", "Playground"]
