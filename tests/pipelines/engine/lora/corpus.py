"""The corpus: a file for each layout and each fault that is found in the wild, by its name.

A fault is expected to raise LoraInvalid with a sentence; a layout, whose expectation is None, to
change each layer by exactly what its writer returns.
"""

from tests.pipelines.engine.lora.corpus_faults import FAULTS
from tests.pipelines.engine.lora.corpus_faults import Writer as FaultWriter
from tests.pipelines.engine.lora.corpus_layouts import LAYOUTS
from tests.pipelines.engine.lora.corpus_layouts import Writer as LayoutWriter

CORPUS: dict[str, tuple[LayoutWriter | FaultWriter, str | None]] = {
    **{name: (writer, None) for name, writer in LAYOUTS.items()},
    **FAULTS,
}
