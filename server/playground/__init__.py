"""The page for people: a playground at `/` that runs its edits through the server's own queue."""

from server.playground.mount import Playground
from server.playground.parts import PageParts

__all__ = ["PageParts", "Playground"]
