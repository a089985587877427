"""OpenAI's `POST /v1/images/edits` and `GET /v1/models`.

Source: the SDK's published types and what its other clients send; each rule that a client relies
on has a test in `tests/server/contracts/test_openai.py`.
"""

from server.contracts.openai.problems import ERROR_SCHEMA, render
from server.contracts.openai.routes import router

__all__ = ["ERROR_SCHEMA", "render", "router"]
