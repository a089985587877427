"""The OpenAPI document, with errors in the shape of each contract."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

from server.web.contract import JsonSchema

# FastAPI declares its own validation error for every operation; no contract answers like that.
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


def describe_errors(app: FastAPI, error_schema: Callable[[str], JsonSchema]) -> None:
    """Declare each operation's default response as `error_schema(path)`."""
    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        for path, operations in document["paths"].items():
            for operation in operations.values():
                responses = operation["responses"]
                responses.pop("422", None)
                content = {"application/json": {"schema": error_schema(path)}}
                responses["default"] = {"description": "An error", "content": content}
        for name in _UNUSED_SCHEMAS:
            document.get("components", {}).get("schemas", {}).pop(name, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
