"""The page's components by name."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from server.playground.form import FIELDS

# Sends a click on a button inside a piece of HTML to the server, as a click on that piece.
ACTIONS_JS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-action]');
  if (button) trigger('click', {action: button.dataset.action, value: button.dataset.value || ''});
});
"""


@dataclass(slots=True)
class Layout:
    """Gradio components by name; those of the form have the names in `FIELDS`.

    `errors` holds the component below each field that shows its error.
    """

    components: dict[str, Any] = field(default_factory=dict)
    errors: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        return self.components[name]

    @property
    def fields(self) -> Sequence[Any]:
        """The form's components, in the order of `FIELDS`."""
        return [self.components[name] for name in FIELDS]

    @property
    def slots(self) -> Sequence[Any]:
        """The three image components."""
        return [self.components[f"image_{number}"] for number in (1, 2, 3)]

    @property
    def lora_menus(self) -> Sequence[Any]:
        """The three LoRA menus."""
        return [self.components[f"lora_{number}"] for number in (1, 2, 3)]

    @property
    def lora_abouts(self) -> Sequence[Any]:
        """The components that tell about the three LoRAs."""
        return [self.components[f"lora_about_{number}"] for number in (1, 2, 3)]


def uploaded_path(image: Any) -> str | None:
    """Return the path of the image in a slot, or None when the slot is empty."""
    path: str | None = image.path if image is not None else None
    return path
