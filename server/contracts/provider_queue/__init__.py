"""The provider's queue, and fal's, which differs in three details: one superset serves both.

Sources: the provider's public documentation, a sister provider's identical one, and fal's published
clients; each rule has a test in `tests/server/contracts/test_provider_queue.py`.
"""

from server.contracts.provider_queue.codes import ERROR_SCHEMA, NAME, render
from server.contracts.provider_queue.routes import router
from server.contracts.provider_queue.webhooks import webhook_body, webhook_format

__all__ = ["ERROR_SCHEMA", "NAME", "render", "router", "webhook_body", "webhook_format"]
