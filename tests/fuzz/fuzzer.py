"""Sends bad requests by number to one server, and collects what is wrong with their responses."""

import collections
import json
import random
from dataclasses import dataclass, field
from typing import Any

from tests.fuzz.bad_files import good_lora
from tests.fuzz.bad_requests import Known, bad_request, good_requests
from tests.fuzz.checks import faults, leaks, shown, tracebacks
from tests.fuzz.raw_http import RawRequest, RawResponse, exchange
from tests.live_server import LiveServer

# Jobs that good requests queued are removed long before there are as many as may wait.
CLEAN_UP_EVERY = 40
# A server that fails at everything should say so once, not a thousand times.
MAX_FAULTS = 10
# Codes of jobs that failed by a fault of this program; all others tell of their input.
FAULTY_CODES = ("internal_error", "worker_lost", "device_failed")


@dataclass(slots=True)
class Fuzzer:
    """One seed for one server. A request depends on both and on its number alone.

    Except for the id of the job and the token that it may name: those are new in each run.
    """

    server: LiveServer
    seed: int
    key: str | None
    failures: list[str] = field(default_factory=list)
    statuses: collections.Counter[int] = field(default_factory=collections.Counter)
    _known: Known = field(default_factory=Known)

    @property
    def is_hopeless(self) -> bool:
        """Whether more requests would tell nothing new."""
        return len(self.failures) >= MAX_FAULTS or not self.server.is_running

    def send(self, number: int) -> None:
        """Send the request with this number, and check its response."""
        if number % CLEAN_UP_EVERY == 0:
            self.clean_up()
        rng = random.Random(f"{self.seed} {self.key} {number}")
        request = bad_request(rng, self._known, self.key)
        try:
            response = self._exchange(request)
        except (TimeoutError, ConnectionRefusedError) as exc:
            self._fail(f"{type(exc).__name__}: {exc}", number, request, None)
            return
        self.statuses[response.status if response else 0] += 1
        for fault in faults(self.server, request, response):
            self._fail(fault, number, request, response)
        if response is not None and response.status < 300:
            self._learn(response.body)

    def send_good_ones(self) -> None:
        """Send an unchanged request to every route; all are accepted."""
        self._put_lora_back()
        for request in good_requests(self._known, self.key):
            response = self._exchange(request)
            assert response is not None
            assert response.status < 300, f"{response.body!r} to {shown(request)}"

    def clean_up(self) -> None:
        """Cancel and delete all jobs, after a look at what they show; put the LoRA back."""
        self._put_lora_back()
        while jobs := self._call("GET", "/v1/edits?limit=100")["items"]:
            for job in jobs:
                found = leaks(self.server, json.dumps(job).encode())
                self.failures += [f"a job shows {secret!r}: {job}" for secret in found]
                if job["error"] and job["error"]["code"] in FAULTY_CODES:
                    self.failures.append(f"a job failed: {job}")
                self._call("DELETE", f"/v1/edits/{job['id']}")

    def assert_no_failures(self) -> None:
        """Fail with every failure, and how to repeat it."""
        log = [] if self.failures else tracebacks(self.server.log())
        found = [*self.failures, *log[:MAX_FAULTS]]
        assert not found, "\n\n".join(found)

    def _exchange(self, request: RawRequest) -> RawResponse | None:
        host, _, port = self.server.url.removeprefix("http://").partition(":")
        return exchange((host, int(port)), request)

    def _fail(
        self, fault: str, number: int, request: RawRequest, response: RawResponse | None
    ) -> None:
        status, body = (response.status, response.body[:600]) if response else ("", b"")
        self.failures.append(
            f"{status} {fault}. To repeat it: QWEN_FUZZ_SEED={self.seed} QWEN_FUZZ_FIRST={number} "
            f"QWEN_FUZZ_REQUESTS=1 python -m pytest tests/fuzz\n  {shown(request)}\n  {body!r}"
        )

    def _learn(self, body: bytes) -> None:
        """Remember the job or the ticket of a response for later requests."""
        try:
            found = json.loads(body)
        except ValueError:
            return
        data = found.get("data", found) if isinstance(found, dict) else None
        if isinstance(data, dict):
            known = self._known.job_id
            self._known.job_id = str(data.get("id") or data.get("request_id") or known)
            if "upload" in data:
                self._known.token = data["upload"]["url"].rpartition("/")[2]

    def _call(self, method: str, path: str) -> Any:
        headers = {} if self.key is None else {"X-API-Key": self.key}
        answer = self.server.http.request(method, self.server.url + path, headers=headers)
        return answer.json() if answer.content else None

    def _put_lora_back(self) -> None:
        """A request may have deleted it."""
        (self.server.weights_dir / "loras" / "known.safetensors").write_bytes(good_lora())
