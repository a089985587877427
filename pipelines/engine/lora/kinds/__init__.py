"""How each kind of LoRA becomes terms, one file per kind."""

from collections.abc import Callable, Iterator, Mapping

import torch

from pipelines.engine.lora.kinds.difference import difference_terms
from pipelines.engine.lora.kinds.loha import loha_terms
from pipelines.engine.lora.kinds.lokr import lokr_terms
from pipelines.engine.lora.kinds.lora import lora_terms
from pipelines.engine.lora.kinds.norm import norm_terms
from pipelines.engine.lora.kinds.oft import oft_terms
from pipelines.engine.lora.terms import Term

# By the name of the kind: the tensors of a layer by part, as the file stores them, and the factor
# of its change, to terms with tensors in fp32 or in the file's dtype.
TermBuilder = Callable[[Mapping[str, torch.Tensor], float], Iterator[Term]]
BUILDERS: Mapping[str, TermBuilder] = {
    "LoRA": lora_terms,
    "LoHa": loha_terms,
    "LoKr": lokr_terms,
    "difference": difference_terms,
    "OFT": oft_terms,
    "norm": norm_terms,
}
