"""WaveSpeed's statuses and business codes."""

from server.contracts.wavespeed.schemas import Status
from server.job import Job, JobStatus

NAME = "wavespeed"
# Accepted model ids; the loaded model runs for all of them.
MODELS = tuple(
    f"wavespeed-ai/qwen-image/{name}"
    for name in ("edit-plus-lora", "edit-plus", "edit-2511", "edit-2511-lora")
)
CANCELED_MESSAGE = "The task was canceled."


class BusinessCode:
    """The integers in `data.code`, the provider's own."""

    MODERATED = 1200
    MISSING_PARAMETER = 1400
    INVALID_PARAMETER = 1401
    MEDIA_ACCESS_FAILED = 1402
    EXECUTION_FAILED = 1403
    TASK_FAILED = 1405
    INTERNAL = 5000
    UNAVAILABLE = 5003
    TIMEOUT = 5004


CODES = {
    "content_blocked": BusinessCode.MODERATED,
    "missing_parameter": BusinessCode.MISSING_PARAMETER,
    "invalid_parameter": BusinessCode.INVALID_PARAMETER,
    "lora_not_found": BusinessCode.INVALID_PARAMETER,
    "lora_invalid": BusinessCode.INVALID_PARAMETER,
    "lora_overflow": BusinessCode.INVALID_PARAMETER,
    "invalid_picture": BusinessCode.MEDIA_ACCESS_FAILED,
    "payload_too_large": BusinessCode.MEDIA_ACCESS_FAILED,
    "fetch_failed": BusinessCode.MEDIA_ACCESS_FAILED,
    "inference_failed": BusinessCode.EXECUTION_FAILED,
    "out_of_memory": BusinessCode.EXECUTION_FAILED,
    "non_finite_output": BusinessCode.EXECUTION_FAILED,
    "device_failed": BusinessCode.EXECUTION_FAILED,
    "worker_lost": BusinessCode.TASK_FAILED,
    "server_lost": BusinessCode.TASK_FAILED,
    "timeout": BusinessCode.TIMEOUT,
    "internal_error": BusinessCode.INTERNAL,
    "unavailable": BusinessCode.UNAVAILABLE,
    "storage_full": BusinessCode.UNAVAILABLE,
}


# Four published clients do not know `cancelled` and would poll forever.
STATUSES = {
    JobStatus.QUEUED: Status.CREATED,
    JobStatus.RUNNING: Status.PROCESSING,
    JobStatus.SUCCEEDED: Status.COMPLETED,
    JobStatus.FAILED: Status.FAILED,
    JobStatus.CANCELED: Status.FAILED,
}


def business_code(job: Job) -> int:
    """Return `data.code` of a job: 0 unless it failed or was canceled."""
    if job.status is JobStatus.CANCELED:
        return BusinessCode.TASK_FAILED
    return CODES.get(job.error.code, BusinessCode.INTERNAL) if job.error else 0


def error_message(job: Job) -> str:
    """Return `data.error` of a job: empty unless it failed or was canceled."""
    if job.status is JobStatus.CANCELED:
        return CANCELED_MESSAGE
    return job.error.message if job.error else ""
