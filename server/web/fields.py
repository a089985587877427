"""Request fields that several contracts share."""

import secrets
from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.api.params import LORA_SCALE_RANGE, SEED_RANGE, LoraRef


class LenientModel(BaseModel):
    """Ignores unknown fields; null and "" count as absent, except for an empty prompt.

    Halves of surrogate pairs are refused in every text: neither a database nor a file takes them.
    """

    # with any limit of length pydantic also checks that a text is Unicode; without, it does not
    model_config = ConfigDict(extra="ignore", str_min_length=0)

    @model_validator(mode="before")
    @classmethod
    def _drop_blanks(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        return {
            key: value
            for key, value in data.items()
            if key == "prompt" or (value is not None and value != "")
        }


class LoraItem(BaseModel):
    """A LoRA and its strength; `path` is a name under weights/loras, a hub id or a URL."""

    path: str = Field(min_length=1)
    scale: Annotated[
        float, Field(ge=LORA_SCALE_RANGE[0], le=LORA_SCALE_RANGE[1], allow_inf_nan=False)
    ] = 1.0


def lora_refs(items: Sequence[LoraItem]) -> tuple[LoraRef, ...]:
    """Convert to engine parameters."""
    return tuple(LoraRef(item.path, item.scale) for item in items)


def seed_or_random(seed: int | None) -> int:
    """Return the seed, or a random one for None and -1."""
    return secrets.randbelow(SEED_RANGE[1] + 1) if seed is None or seed == -1 else seed
