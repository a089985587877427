"""WaveSpeed's v3 contract.

Source: the provider's public documentation and published clients; each rule that a client relies
on has a test in `tests/server/contracts/wavespeed`.
"""

from server.contracts.wavespeed.codes import NAME
from server.contracts.wavespeed.media import upload_router
from server.contracts.wavespeed.problems import ERROR_SCHEMA, render
from server.contracts.wavespeed.routes import router
from server.contracts.wavespeed.webhooks import webhook_format
from server.web.contract import Contract

CONTRACT = Contract(
    name=NAME,
    prefixes=("/api",),
    router=router,
    render_error=render,
    error_schema=ERROR_SCHEMA,
    webhook=webhook_format,
    public_router=upload_router,
)

__all__ = ["CONTRACT"]
