"""The OpenAPI document, with the errors as the contracts really shape them."""

from collections.abc import Callable
from typing import Any

from fastapi import FastAPI

# FastAPI declares its own validation error for every operation; no contract answers like that.
_UNUSED_SCHEMAS = ("HTTPValidationError", "ValidationError")


def describe_errors(app: FastAPI, error_schema: Callable[[str], dict[str, Any]]) -> None:
    """Give each operation, as its default answer, the error of the contract its path belongs to.

    `error_schema` is asked with the path.
    """
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
