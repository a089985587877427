"""Errors in the OpenAPI document."""

from fastapi import FastAPI
from pydantic import BaseModel

from server.web.openapi_errors import describe_errors


class Body(BaseModel):
    prompt: str


def test_operations_declare_the_error_of_their_path_and_no_other() -> None:
    app = FastAPI()

    @app.post("/a/edits")
    @app.put("/b/edits")
    def edit(body: Body) -> Body:
        return body

    describe_errors(app, lambda path: {"title": path[1]})
    document = app.openapi()

    for path, method, title in (("/a/edits", "post", "a"), ("/b/edits", "put", "b")):
        responses = document["paths"][path][method]["responses"]
        assert set(responses) == {"200", "default"}
        assert responses["default"]["content"]["application/json"]["schema"] == {"title": title}
    assert set(document["components"]["schemas"]) == {"Body"}
