"""WaveSpeed's account: a balance that nothing is taken from, and the secret of webhooks."""

from fastapi import APIRouter
from pydantic import BaseModel

from server.contracts.wavespeed.schemas import Envelope
from server.web.contract import Services


class Balance(BaseModel):
    """What is left."""

    balance: float = 0.0


class WebhookSecret(BaseModel):
    """The secret that webhooks are signed with."""

    secret: str


def router(services: Services) -> APIRouter:
    """Return the balance and the webhook secret."""
    routes = APIRouter(prefix="/api/v3")

    @routes.get("/balance")
    def get_balance() -> Envelope[Balance]:
        """Runs are free here; the balance stays."""
        return Envelope(data=Balance())

    @routes.get("/webhook/secret")
    def get_webhook_secret() -> Envelope[WebhookSecret]:
        """What receivers check the signature of webhooks with."""
        return Envelope(data=WebhookSecret(secret=services.webhook_secret))

    return routes
