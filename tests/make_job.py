"""Jobs for tests, with a default for every field."""

import dataclasses
from typing import Any

from pipelines.api.params import EditParams
from server.job import Job, Outcome, Submission

_REQUEST_FIELDS = {field.name for field in dataclasses.fields(Submission)}
_OUTCOME_FIELDS = {field.name for field in dataclasses.fields(Outcome)} - {"status"}


def make_job(**fields: Any) -> Job:
    """Return a prepared, native, queued job; `fields` of Job, Submission or Outcome override this.

    A final `status` adds the outcome.
    """
    request = {"contract": "native", "endpoint": "edits"} | _taken(fields, _REQUEST_FIELDS)
    request.setdefault("params", EditParams(prompt="make it blue", seed=1))
    result = _taken(fields, _OUTCOME_FIELDS)
    job = {"images": (None,), "created_at": 900.0, "prepared_at": 900.0} | fields
    if "status" in job and job["status"].is_final:
        job["outcome"] = Outcome(job["status"], **result)
    else:
        assert not result, "only a job that has ended has a result"
    return Job(request=Submission(**request), **job)


def _taken(fields: dict[str, Any], names: set[str]) -> dict[str, Any]:
    return {name: fields.pop(name) for name in names & set(fields)}
