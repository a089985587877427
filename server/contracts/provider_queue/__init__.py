"""The provider queue, and fal's, which differs in three details: one superset serves both.

Sources: the provider's public documentation, a sister provider's identical one, and fal's published
clients; each rule has a test in `tests/server/contracts/provider_queue`.
"""

from server.contracts.provider_queue.codes import ERROR_SCHEMA, NAME, render
from server.contracts.provider_queue.routes import PREFIXES, router
from server.contracts.provider_queue.signing import keys_router
from server.contracts.provider_queue.webhooks import webhook_format
from server.web.contract import Contract

CONTRACT = Contract(
    name=NAME,
    prefixes=PREFIXES,
    router=router,
    render_error=render,
    error_schema=ERROR_SCHEMA,
    webhook=webhook_format,
    public_router=keys_router,
)

__all__ = ["CONTRACT"]
