"""WaveSpeed's account: a constant balance, and the webhook secret."""

from fastapi import APIRouter, Request
from pydantic import BaseModel

from server.contracts.wavespeed.schemas import Envelope
from server.web.auth import caller
from server.web.contract import Services


class Balance(BaseModel):
    """The remaining balance."""

    balance: float = 0.0


class WebhookSecret(BaseModel):
    """The secret that signs webhooks."""

    secret: str


def router(services: Services) -> APIRouter:
    """Return the balance and the webhook secret."""
    routes = APIRouter(prefix="/api/v3")

    @routes.get("/balance")
    def get_balance() -> Envelope[Balance]:
        """Return the balance, which never changes: runs are free."""
        return Envelope(data=Balance())

    @routes.get("/webhook/secret")
    def get_webhook_secret(request: Request) -> Envelope[WebhookSecret]:
        """Return the secret that receivers of your webhooks verify their signatures with."""
        secret = services.webhook_secrets.of(caller(request).owner)
        return Envelope(data=WebhookSecret(secret=secret))

    return routes
