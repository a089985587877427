"""WaveSpeed's model catalogue, and its prices: runs are free."""

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from server.contracts.wavespeed.codes import MODELS
from server.contracts.wavespeed.schemas import Envelope, SubmitRequest
from server.errors import InvalidRequest
from server.web.contract import Services
from server.web.fields import LenientModel
from server.web.request import base_url

DESCRIPTION = "Edits one to three images by a prompt, with the model loaded on this server."
# Aliases of other fields, left out of the schema.
ALIASES = ("image", "webhook_url")


class ApiSchema(BaseModel):
    """One call of a model."""

    type: str = "model_run"
    method: str = "POST"
    server: str
    api_path: str
    request_schema: dict[str, Any]


class ApiSchemas(BaseModel):
    """The calls of a model."""

    api_schemas: list[ApiSchema]


class ModelCard(BaseModel):
    """A model in the catalogue."""

    model_id: str
    name: str
    description: str
    type: str = "image-to-image"
    base_price: float = 0.0
    sort_order: int
    formula: str = ""
    api_schema: ApiSchemas


class PriceRequest(LenientModel):
    """A run to price."""

    model_id: str
    inputs: dict[str, Any] = Field(default_factory=dict)


class Price(BaseModel):
    """The price of a run."""

    model_id: str
    price: float = 0.0
    discounted_price: float = 0.0
    currency: str = "USD"


class UnitPrice(BaseModel):
    """The price of a run, in the older format."""

    model_id: str
    unit_price: float = 0.0
    currency: str = "USD"


def router(services: Services) -> APIRouter:
    """Return the catalogue and the prices."""
    routes = APIRouter(prefix="/api/v3")

    @routes.get("/models")
    def list_models(request: Request) -> Envelope[list[ModelCard]]:
        """List the models and their request schemas."""
        base = base_url(request)
        presets = [f"{MODELS[0]}/{preset.name}" for preset in services.presets.usable()]
        models = enumerate((*MODELS, *presets))
        return Envelope(data=[_card(model, place, base) for place, model in models])

    @routes.post("/model/price")
    def get_price(body: PriceRequest) -> Envelope[Price]:
        """Return the price of a run."""
        return Envelope(data=Price(model_id=known(body.model_id)))

    @routes.post("/model/pricing")
    def get_unit_price(body: PriceRequest) -> Envelope[UnitPrice]:
        """Return the price of a run, for older clients."""
        return Envelope(data=UnitPrice(model_id=known(body.model_id)))

    def known(model_id: str) -> str:
        model, _, preset = model_id.rpartition("/")
        if model_id not in MODELS and model not in MODELS:
            raise InvalidRequest(
                f"there is no model {model_id!r}; this server has {', '.join(MODELS)}",
                field="model_id",
            )
        if model_id not in MODELS:
            services.presets.find(preset)
        return model_id

    return routes


def request_schema() -> dict[str, Any]:
    """Return the JSON schema of a submit's body, from the model that validates it.

    Clients build a form from it: no references, no nulls (they count as absent), no aliases.
    """
    schema = SubmitRequest.model_json_schema()
    definitions = schema.get("$defs", {})
    properties = {
        name: _plain(value, definitions)
        for name, value in schema["properties"].items()
        if name not in ALIASES
    }
    return {
        "type": "object",
        "properties": properties,
        "required": ["prompt", "images"],
        "x-order-properties": list(properties),
    }


def _plain(value: Any, definitions: dict[str, Any]) -> Any:
    """Inline the references of a schema and drop its nulls."""
    if isinstance(value, list):
        return [_plain(entry, definitions) for entry in value]
    if not isinstance(value, dict):
        return value
    if "$ref" in value:
        target = definitions[value["$ref"].rpartition("/")[2]]
        rest = {key: entry for key, entry in value.items() if key != "$ref"}
        return _plain({**target, **rest}, definitions)
    if "anyOf" in value:
        (kind,) = (entry for entry in value["anyOf"] if entry != {"type": "null"})
        rest = {key: entry for key, entry in value.items() if key not in ("anyOf", "default")}
        return _plain({**kind, **rest}, definitions)
    return {key: _plain(entry, definitions) for key, entry in value.items()}


def _card(model: str, place: int, base: str) -> ModelCard:
    run = ApiSchema(server=base, api_path=f"/api/v3/{model}", request_schema=request_schema())
    return ModelCard(
        model_id=model,
        name=model,
        description=DESCRIPTION,
        sort_order=place,
        api_schema=ApiSchemas(api_schemas=[run]),
    )
