"""The sampling profile in requests and results."""

from typing import Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipelines.api.errors import InvalidParameter
from pipelines.api.profiles import Source
from pipelines.api.sampling import (
    CFG_RANGE,
    SHIFT_RANGE,
    STEPS_RANGE,
    TERMINAL_RANGE,
    Sampling,
    parse_sampling,
)
from server.errors import InvalidRequest
from server.job import Outcome

T = TypeVar("T", int, float)


class SamplingItem(BaseModel):
    """A sampling profile; what it leaves out comes from a preset, a LoRA or the model."""

    model_config = ConfigDict(extra="forbid")

    steps: int | None = Field(None, ge=STEPS_RANGE[0], le=STEPS_RANGE[1])
    true_cfg_scale: float | None = Field(None, ge=CFG_RANGE[0], le=CFG_RANGE[1])
    shift: float | None = Field(
        None, ge=SHIFT_RANGE[0], le=SHIFT_RANGE[1], description="exp(mu); Lightning's is 3"
    )
    shift_terminal: float | None = Field(
        None, ge=TERMINAL_RANGE[0], le=TERMINAL_RANGE[1], description="null: no terminal"
    )
    sigmas: list[float] | None = Field(
        None, description="Instead of steps and shift: falling, without the final 0"
    )

    @model_validator(mode="after")
    def check(self) -> Self:
        """Refuse sigmas that no scheduler runs."""
        try:
            self.sampling()
        except InvalidParameter as exc:
            raise ValueError(str(exc)) from exc
        return self

    def sampling(self) -> Sampling:
        """Convert to the engine's profile. Raises InvalidParameter."""
        return parse_sampling(self.model_dump(exclude_unset=True))


class SamplingView(BaseModel):
    """The sampling of a finished edit: `source` names where each value comes from."""

    model_config = ConfigDict(from_attributes=True)

    source: dict[str, Source]
    steps: int
    true_cfg_scale: float
    shift: float | None
    shift_terminal: float | None
    sigmas: list[float]


def either(name: str, value: T | None, key: str, in_profile: T | None) -> T | None:
    """The value of a field that the body has twice. Raises InvalidRequest where they differ."""
    if value is not None and in_profile is not None and value != in_profile:
        raise InvalidRequest(
            f"{name} and sampling.{key} must be equal, or one of them absent, got {value:g} and "
            f"{in_profile:g}",
            field=name,
        )
    return in_profile if value is None else value


def sampling_view(outcome: Outcome | None) -> SamplingView | None:
    """Render the sampling of a finished edit."""
    used = outcome.sampling if outcome else None
    return SamplingView.model_validate(used) if used else None
