"""The torch-free half of a model family."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pipelines.api.model_spec import ModelSpec
from pipelines.api.sizes import SizeRules

# Linear layers by name, each with its (out, in) features. Those of the transformer have their own
# names, those of the text encoder begin with TEXT_ENCODER.
Linears = Mapping[str, tuple[int, int]]
TEXT_ENCODER = "text_encoder."


@dataclass(frozen=True, slots=True)
class LoraMarks:
    """Marks by which a LoRA for the family is recognised.

    `name` is what messages call the LoRA's base model, `pattern` a regular expression for layer
    names that no other family has.
    """

    name: str
    pattern: str


@dataclass(frozen=True, slots=True)
class ModelFamily:
    """A kind of model: what its folder holds, how sizes are counted, which layers LoRAs can change.

    `pipeline_class` is the `_class_name` of the family's `model_index.json`, `weight_stems` the
    file stem of each component with weights. `spec` has the published settings under a name that
    means nothing. `linears` maps a transformer's `config.json` to its linear layers, `text_linears`
    that of a text encoder; a key that is absent has its published value. `parameters` counts the
    numbers in each published component. `checkpoints` maps short names to hub ids, and `lightning`
    a transformer's `config.json` to the published few-step LoRAs for that checkpoint: hub files by
    number of steps.
    """

    name: str
    title: str
    pipeline_class: str
    weight_stems: Mapping[str, str]
    spec: ModelSpec
    sizes: SizeRules
    max_references: int
    max_prompt_tokens: int
    linears: Callable[[Mapping[str, object]], Linears]
    text_linears: Callable[[Mapping[str, object]], Linears]
    parameters: Mapping[str, int]
    checkpoints: Mapping[str, str]
    lightning: Callable[[Mapping[str, object]], Mapping[int, str]]
    lora_marks: LoraMarks

    def all_linears(
        self, transformer: Mapping[str, object], text_encoder: Mapping[str, object]
    ) -> Linears:
        """The linear layers of both components with these `config.json`.

        Raises TypeError for a value that is not a whole number.
        """
        text = self.text_linears(text_encoder)
        return {
            **self.linears(transformer),
            **{TEXT_ENCODER + name: features for name, features in text.items()},
        }


def whole(value: object) -> int:
    """Return a whole number of a configuration. Raises TypeError for anything else."""
    if not isinstance(value, int):
        raise TypeError(f"expected a whole number, got {value!r}")
    return value
