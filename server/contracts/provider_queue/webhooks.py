"""fal's webhooks."""

import json

from server.caller import EVERYBODY
from server.contracts.provider_queue.answers import Failure, outcome
from server.contracts.provider_queue.signing import SigningKey
from server.job import Job
from server.jobs.service import EditService
from server.jobs.webhook_sender import WebhookFormat
from server.web.contract import Services

MAX_RETRIES = 10


def webhook_format(services: Services) -> WebhookFormat:
    """Send fal's webhook body, signed with the key of this server."""
    key = SigningKey.of(services.settings.data_dir)

    async def body(job: Job) -> bytes:
        base = services.settings.public_url or job.request.base_url
        return await webhook_body(services.edits, job, base)

    def headers(job: Job, timestamp: int, body: bytes) -> dict[str, str]:
        user_id = job.request.owner or EVERYBODY.owner
        return {
            "x-fal-webhook-request-id": job.id,
            "x-fal-webhook-user-id": user_id,
            "x-fal-webhook-timestamp": str(timestamp),
            "x-fal-webhook-signature": key.sign(job.id, user_id, timestamp, body),
        }

    return WebhookFormat(render=body, headers=headers, max_retries=MAX_RETRIES)


async def webhook_body(service: EditService, job: Job, base: str) -> bytes:
    """Return the body for a final job. `base` is the server's URL for the client."""
    status, payload = await outcome(service, job, base)
    body: dict[str, object] = {
        "request_id": job.id,
        "gateway_request_id": job.id,
        "status": "OK" if status == 200 else "ERROR",
        "payload": payload.model_dump(mode="json"),
    }
    if isinstance(payload, Failure):
        body["error"] = payload.message
    return json.dumps(body).encode()
