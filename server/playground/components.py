"""The page's components by name, and what they share."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.playground.form import FIELDS, FREE_SIZE

# A click on a button inside a piece of HTML goes to the server as an event of that piece.
ACTIONS_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (button) trigger('click', {action: button.dataset.action, value: button.dataset.value || ''});
});
"""

# The line between before and after stands where the range is.
COMPARE_JS = """
element.addEventListener('input', (event) => {
  event.target.closest('.qe-compare')?.style.setProperty('--line', event.target.value + '%');
});
"""


@dataclass(slots=True)
class Layout:
    """The components by name; the form's have the names in `FIELDS`."""

    places: dict[str, Any] = field(default_factory=dict)
    parts: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.parts[name]

    @property
    def fields(self) -> Sequence[Any]:
        """The form's, in the order of its values."""
        return [self.parts[name] for name in FIELDS]

    @property
    def slots(self) -> Sequence[Any]:
        """The three images."""
        return [self.parts[f"image_{number}"] for number in (1, 2, 3)]

    @property
    def lora_menus(self) -> Sequence[Any]:
        """The three menus of LoRAs."""
        return [self.parts[f"lora_{number}"] for number in (1, 2, 3)]


def is_free(size: Any) -> bool:
    """Whether the sides are typed."""
    return bool(size == FREE_SIZE)
