"""The page's components by name, and what they share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.playground.form import FREE_SIZE

# A click on a button inside a piece of HTML goes to the server as an event of that piece.
ACTIONS_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (button) trigger('click', {action: button.dataset.action, value: button.dataset.value || ''});
});
"""


@dataclass(slots=True)
class Layout:
    """The components by name. `fields` are the form's, in the order of `values_of_form`."""

    fields: list[Any] = field(default_factory=list)
    places: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    @property
    def slots(self) -> Sequence[Any]:
        """The three pictures."""
        return self.fields[:3]

    @property
    def prompt(self) -> Any:
        """The prompt."""
        return self.fields[3]

    @property
    def lora_menus(self) -> Sequence[Any]:
        """The three menus of LoRAs."""
        return self.fields[8:14:2]

    @property
    def size(self) -> Any:
        """The size's menu."""
        return self.fields[5]

    @property
    def advanced_fields(self) -> Sequence[Any]:
        """What stands in the fold that is called so, and is empty as a rule."""
        return self.fields[4], self.fields[16], self.fields[17]

    @property
    def seed(self) -> Any:
        """The seed."""
        return self.fields[14]

    @property
    def seed_lock(self) -> Any:
        """Whether the seed is kept."""
        return self.fields[15]


def is_free(size: Any) -> bool:
    """Whether the sides are typed."""
    return bool(size == FREE_SIZE)
