"""The corpus: a file for each layout and each fault found in the wild, by name.

A fault must raise LoraInvalid with the message given. A layout, with None in its place, must change
each layer exactly as its writer returns.
"""

from tests.pipelines.engine.lora.corpus_faults import Writer as FaultWriter
from tests.pipelines.engine.lora.corpus_kinds import FAULTS
from tests.pipelines.engine.lora.corpus_layouts import LAYOUTS
from tests.pipelines.engine.lora.corpus_layouts import Writer as LayoutWriter

CORPUS: dict[str, tuple[LayoutWriter | FaultWriter, str | None]] = {
    **{name: (writer, None) for name, writer in LAYOUTS.items()},
    **FAULTS,
}
