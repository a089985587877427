"""WaveSpeed's webhooks and their signature."""

import hashlib
import hmac
from collections.abc import Mapping

from server.contracts.wavespeed.views import prediction
from server.job import Job
from server.jobs.webhook_secrets import PREFIX
from server.jobs.webhook_sender import WebhookFormat
from server.web.contract import Services

MAX_RETRIES = 3


def webhook_format(services: Services) -> WebhookFormat:
    """Send the bare prediction, signed with its owner's webhook secret."""

    async def render(job: Job) -> bytes:
        base = services.settings.public_url or job.request.base_url
        shown = await prediction(services.edits, job, base)
        return shown.model_dump_json().encode()

    def headers(job: Job, timestamp: int, body: bytes) -> Mapping[str, str]:
        secret = services.webhook_secrets.of(job.request.owner)
        return {
            "webhook-id": job.id,
            "webhook-timestamp": str(timestamp),
            "webhook-signature": sign(secret, job.id, timestamp, body),
        }

    return WebhookFormat(render, headers, MAX_RETRIES)


def sign(secret: str, job_id: str, timestamp: int, body: bytes) -> str:
    """Return the version 3 signature. The key is the secret's text itself, not decoded base64."""
    key = secret.removeprefix(PREFIX).encode()
    digest = hmac.new(key, f"{job_id}.{timestamp}.".encode() + body, hashlib.sha256)
    return f"v3,{digest.hexdigest()}"
