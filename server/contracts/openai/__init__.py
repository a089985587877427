"""OpenAI's `POST /v1/images/edits` and `GET /v1/models`.

Source: the SDK's published types and what its other clients send; each rule that a client relies
on has a test in `tests/server/contracts/openai`.
"""

from server.contracts.openai.problems import ERROR_SCHEMA, render
from server.contracts.openai.routes import NAME, router
from server.web.contract import Contract

CONTRACT = Contract(
    name=NAME,
    prefixes=("/v1/images", "/v1/models"),
    router=router,
    render_error=render,
    error_schema=ERROR_SCHEMA,
)

__all__ = ["CONTRACT"]
