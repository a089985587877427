"""One measured figure with its target, and tables of figures."""

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Figure:
    """A `value` in `unit`. The target is met at `limit` or below; None means no target."""

    name: str
    value: float
    unit: str
    limit: float | None = None
    detail: str = ""

    @property
    def is_met(self) -> bool:
        """Return whether the target is met, or there is none."""
        return self.limit is None or self.value <= self.limit

    def cells(self) -> tuple[str, ...]:
        """The figure as a row of the table."""
        target = "" if self.limit is None else f"at most {self.limit:.4g} {self.unit}"
        met = "" if self.limit is None else "yes" if self.is_met else "**no**"
        return self.name, f"{self.value:.4g} {self.unit}", target, met, self.detail


def figure_table(figures: Sequence[Figure]) -> str:
    """The figures as a Markdown table."""
    heads = ("Figure", "Measured", "Target", "Met", "From")
    return markdown_table([heads, *(figure.cells() for figure in figures)])


def markdown_table(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as a Markdown table, aligned for reading as text; the first row is the head."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |"
        for row in rows
    ]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)
