"""The plan of one layer's share of a LoRA."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from pipelines.files.lora_format.config import LoraConfig
from pipelines.files.lora_format.kinds import COMPANIONS, Kind


@dataclass(frozen=True, slots=True)
class LayerPlan:
    """One linear layer's share of a LoRA.

    `parts` are the keys of its tensors by part, as its kind names them. What they define is scaled
    by `multiplier` or, when `alpha_key` names a scalar in the file, by `config.multiplier` of that
    alpha. `rank` is 0 for a change that has none. `rows` are the layer's
    rows of a change that was made for a fused layer.
    """

    kind: Kind
    parts: Mapping[str, str]
    rank: int
    multiplier: float
    alpha_key: str | None
    config: LoraConfig
    rows: slice | None = None

    @property
    def is_dora(self) -> bool:
        """Return whether the changed weight has magnitudes of its own."""
        return "magnitude" in self.parts

    def is_idle(self, zeros: Collection[str], multiplier: float) -> bool:
        """Return whether the layer stays as it is, when the tensors of the keys `zeros` are 0."""
        own = [key for part, key in self.parts.items() if part in self.kind.factors]
        others = [key for part, key in self.parts.items() if part not in self.kind.factors]
        is_zero = multiplier == 0 or any(key in zeros for key in own) or not own
        # DoRA's magnitudes and new weights change a layer without a LoRA, and if they are zero
        is_own = {"magnitude", *self.kind.terms} & set(self.parts)
        return is_zero and not is_own and all(key in zeros for key in others)

    @property
    def kind_name(self) -> str:
        """The name of the kind, or of the companion that makes it another."""
        found = [c.name for c in COMPANIONS if c.name and c.part in self.parts]
        return found[0] if found else self.kind.name
