"""The OpenAPI document, and the server checked against it by schemathesis."""

from typing import Any

import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.live_server import LiveServer

CHECKS = (
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)
EXAMPLES = 8


def test_every_operation_responds_as_declared_and_never_with_500(server: LiveServer) -> None:
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    failures = []
    for found in document.get_all_operations():
        operation = found.ok()
        try:
            _check_against_its_declaration(operation)
        except Exception as exc:
            failures.append(f"{operation.label}: {exc}")
    assert not failures, "\n\n".join(failures)


def _check_against_its_declaration(operation: Any) -> None:
    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    def check(case: schemathesis.Case) -> None:
        response = case.call(timeout=300)
        case.validate_response(response, checks=CHECKS)

    check()


def test_every_read_of_a_finished_job_responds_as_declared(
    server: LiveServer, image_base64: str
) -> None:
    """Generated examples hardly ever name an existing job."""
    body = {"prompt": "a", "images": [image_base64]}
    job = server.http.post(f"{server.url}/v1/edits?wait=240", json=body).json()
    document = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
    read = 0
    for found in document.get_all_operations():
        operation = found.ok()
        names = {"edit_id", "prediction_id", "request_id"} & {
            parameter.name for parameter in operation.path_parameters
        }
        if operation.method != "get" or not names:
            continue
        case = operation.Case(path_parameters=dict.fromkeys(names, job["id"]))
        response = case.call(timeout=300)
        assert response.status_code == 200, operation.label
        case.validate_response(response, checks=CHECKS)
        read += 1
    assert read >= 10


def test_document_declares_the_errors_of_each_contract_and_not_fastapis(server: LiveServer) -> None:
    found = server.http.get(f"{server.url}/openapi.json").json()
    assert "HTTPValidationError" not in str(found)
    for path, operations in found["paths"].items():
        for operation in operations.values():
            assert "422" not in operation["responses"], path
            assert "default" in operation["responses"], path
