"""The server's own contract, `/v1` and `/health`: what the command line and the page use."""

from server.contracts.native import edits, loras, status
from server.contracts.native.edits import ERROR_SCHEMA, render

__all__ = ["ERROR_SCHEMA", "edits", "loras", "render", "status"]
