"""What the form asks for, as a curl line and as Python: requests that work when they are pasted."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.api.params import EditParams
from server.job import OutputFormat
from server.media.inputs import is_url
from server.playground.images import KeptImage

# How long the request waits for its edit; the contract allows no more.
WAIT_S = 600
_PYTHON = '''\
import base64
import json
import urllib.request


def image(name):
    """A URL as it is, a file as base64."""
    if name.startswith(("http://", "https://")):
        return name
    with open(name, "rb") as file:
        return base64.b64encode(file.read()).decode()


edit = {edit}
edit["images"] = [image(name) for name in {images}]
request = urllib.request.Request(
    "{url}",
    data=json.dumps(edit).encode(),
    headers={headers},
)
with urllib.request.urlopen(request) as answer:
    job = json.load(answer)
print(job["status"], job["error"] or "")
for output in job["outputs"]:
    print(output["url"])
'''


@dataclass(frozen=True, slots=True)
class Asked:
    """One request: what is asked for, of whom, and whether a key is needed.

    `is_seed_chosen` is false where the server shall draw the seed.
    """

    params: EditParams
    is_seed_chosen: bool
    images: Sequence[KeptImage]
    output_format: OutputFormat
    base_url: str
    has_keys: bool

    @property
    def url(self) -> str:
        """Where it goes."""
        return f"{self.base_url}/v1/edits?wait={WAIT_S}"

    def image_names(self) -> list[str]:
        """The images as URLs, or as names of files in the current folder."""
        return [image.source or self.base_url + image.route for image in self.images]

    def fields(self) -> dict[str, Any]:
        """The body of the native contract, without images and without what is not said."""
        params = self.params
        fields = {
            "prompt": params.prompt,
            "negative_prompt": params.negative_prompt,
            "size": "*".join(map(str, params.size)) if params.size else None,
            "loras": [{"path": lora.path, "scale": lora.scale} for lora in params.loras] or None,
            "seed": params.seed if self.is_seed_chosen else None,
            "n": params.num_outputs if params.num_outputs > 1 else None,
            "num_inference_steps": params.num_inference_steps,
            "true_cfg_scale": params.true_cfg_scale,
            "output_format": str(self.output_format),
        }
        return {name: value for name, value in fields.items() if value is not None}


def curl(asked: Asked) -> str:
    """The request as one curl command over a few lines."""
    parts = [f"curl -s {shlex.quote(asked.url)}"]
    if asked.has_keys:
        parts.append('-H "Authorization: Bearer $QWEN_EDIT_KEY"')
    parts += [_curl_image(name, asked) for name in _in_form_order(asked)]
    for name, value in asked.fields().items():
        values = (
            [f"{lora['path']}:{lora['scale']:g}" for lora in value] if name == "loras" else [value]
        )
        # --form-string: in a value of -F a leading @ or < would name a file
        parts += [f"--form-string {shlex.quote(f'{name}={value}')}" for value in values]
    return " \\\n  ".join(parts)


def python(asked: Asked) -> str:
    """The request as a Python program that needs nothing but Python."""
    headers = '{"Content-Type": "application/json"}'
    imports = ""
    if asked.has_keys:
        imports = "import os\n"
        headers = (
            "{\n"
            '        "Content-Type": "application/json",\n'
            '        "Authorization": "Bearer " + os.environ["QWEN_EDIT_KEY"],\n'
            "    }"
        )
    program = _PYTHON.replace("import json\n", f"import json\n{imports}", 1)
    values = {
        # strings and numbers in JSON are Python, too, and nothing else is in it
        "{edit}": json.dumps(asked.fields(), ensure_ascii=False, indent=4),
        "{images}": json.dumps(asked.image_names(), ensure_ascii=False),
        "{url}": asked.url,
        "{headers}": headers,
    }
    # all at once: what is filled in, a prompt say, may look like a place itself
    return re.sub("|".join(map(re.escape, values)), lambda place: values[place[0]], program)


def _in_form_order(asked: Asked) -> list[str]:
    """The images' names; a file before a URL as its URL here, since a form's files come last."""
    names = asked.image_names()
    last_url = max((index for index, name in enumerate(names) if is_url(name)), default=-1)
    return [
        asked.base_url + image.route if index < last_url and not is_url(name) else name
        for index, (name, image) in enumerate(zip(names, asked.images, strict=True))
    ]


def _curl_image(name: str, asked: Asked) -> str:
    if is_url(name):
        return f"--form-string {shlex.quote(f'images={name}')}"
    # quotes: in an unquoted name a comma or semicolon would end it
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    part = f'image=@"{escaped}"'
    return f"-F {shlex.quote(part)}"
