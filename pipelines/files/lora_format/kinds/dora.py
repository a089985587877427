"""DoRA: the magnitude of the changed weight's rows, (out) or (out, 1), or columns, (1, in)."""

import re

from pipelines.files.lora_format.kinds.companion import Companion

MAGNITUDE = Companion(
    part="magnitude",
    name="DoRA",
    suffixes=(
        re.compile(r"\.dora_scale$"),
        re.compile(r"\.lora_magnitude_vector(\.[^.]++)*$"),
        re.compile(r"\.magnitude$"),
    ),
    kinds=frozenset({"LoRA", "LoHa", "LoKr"}),
    fits=lambda shape, features: shape in ((features[0],), (features[0], 1), (1, features[1])),
)
