"""A wire contract as a value, and the services that its routes work with."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from fastapi import APIRouter
from fastapi.responses import JSONResponse

from pipelines.files.catalog import Catalog, ModelChoice
from server.jobs.job_queue import JobQueue
from server.jobs.scraper import Scraper
from server.jobs.service import EditService
from server.jobs.webhook_secrets import WebhookSecrets
from server.jobs.webhook_sender import WebhookFormat
from server.loras.library import LoraLibrary
from server.loras.presets import Presets
from server.loras.reports import LoraReports
from server.media.outputs import OutputStore
from server.media.uploads import UploadStore
from server.readiness import Readiness
from server.settings import Settings
from server.web.problem import Problem
from server.workers.executor import Executor

JsonSchema = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Services:
    """The single argument of every router."""

    settings: Settings
    choice: ModelChoice
    catalog: Catalog
    edits: EditService
    queue: JobQueue
    executor: Executor
    library: LoraLibrary
    outputs: OutputStore
    uploads: UploadStore
    webhook_secrets: WebhookSecrets
    clock: Callable[[], float]
    scraper: Scraper
    readiness: Readiness
    presets: Presets
    reports: LoraReports

    @property
    def model_name(self) -> str:
        """The name of the loaded model, or of the one being loaded."""
        loaded = self.executor.model
        return loaded.model.name if loaded else self.choice.path.name


@dataclass(frozen=True, slots=True)
class Contract:
    """A provider's wire format: its routes, and the shape of its errors and webhooks.

    An error takes the shape of the contract whose prefix of the path is longest; prefixes end at
    the border of a path segment. Every route of `router` requires an API key, where keys are set;
    `public_router` has the routes that do not, and that admit a long body with `admit_body`.
    `body_limits` gives the largest body in bytes of paths that need more than the server's default.
    """

    name: str
    prefixes: tuple[str, ...]
    router: Callable[[Services], APIRouter]
    render_error: Callable[[Problem], JSONResponse]
    error_schema: JsonSchema
    webhook: Callable[[Services], WebhookFormat] | None = None
    public_router: Callable[[Services], APIRouter] | None = None
    body_limits: Callable[[Settings], Mapping[str, int]] | None = None


def find_contract(contracts: Sequence[Contract], path: str) -> Contract:
    """Return the contract with the longest prefix of `path`, regardless of their order.

    `/v1/models` is a prefix of `/v1/models` and `/v1/models/x`, not of `/v1/modelsX`; `/` is one
    of every path, even of the `*` of an OPTIONS request. Raises LookupError if there is none.
    """
    matches = [
        (len(prefix), contract)
        for contract in contracts
        for prefix in contract.prefixes
        if _is_prefix(prefix, path)
    ]
    if not matches:
        raise LookupError(f"no contract has a prefix of {path}")
    return max(matches, key=lambda match: match[0])[1]


def _is_prefix(prefix: str, path: str) -> bool:
    return prefix in ("/", path) or path.startswith(f"{prefix}/")
