"""The server's own contract, `/v1` and `/health`: what the command line and the page use."""

from server.contracts.native import edits, loras, status
from server.contracts.native.edits import render

__all__ = ["edits", "loras", "render", "status"]
