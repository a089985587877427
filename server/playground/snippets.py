"""The form's request as a curl command and as Python, ready to paste."""

import json
import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pipelines.api.params import EditParams
from server.job import OutputFormat
from server.media.inputs import is_url
from server.playground.images import StoredImage

# Seconds that the request waits for its edit: the contract's maximum.
WAIT_S = 600
_PYTHON = '''\
import base64
import json
import urllib.request


def image(name):
    """Return a URL as it is, a file as base64."""
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
with urllib.request.urlopen(request) as response:
    job = json.load(response)
print(job["status"], job["error"] or "")
for output in job["outputs"]:
    print(output["url"])
'''


@dataclass(frozen=True, slots=True)
class CodeRequest:
    """A request to show as code.

    `is_seed_chosen` is false when the server draws the seed. `has_keys` says that the server
    needs a key.
    """

    params: EditParams
    is_seed_chosen: bool
    images: Sequence[StoredImage]
    output_format: OutputFormat
    base_url: str
    has_keys: bool
    preset: str = ""

    @property
    def url(self) -> str:
        """The address of the request."""
        return f"{self.base_url}/v1/edits?wait={WAIT_S}"

    def image_names(self) -> list[str]:
        """The images as URLs or as names of files in the current folder."""
        return [image.source or self.base_url + image.route for image in self.images]

    def fields(self) -> dict[str, Any]:
        """The body in the native contract, without the images and the fields left to the model."""
        params = self.params
        fields = {
            "prompt": params.prompt,
            "negative_prompt": params.negative_prompt,
            "size": "*".join(map(str, params.size)) if params.size else None,
            "preset": self.preset or None,
            "loras": [{"path": lora.path, "scale": lora.scale} for lora in params.own_loras]
            or None,
            "seed": params.seed if self.is_seed_chosen else None,
            "n": params.num_outputs if params.num_outputs > 1 else None,
            "num_inference_steps": params.num_inference_steps,
            "true_cfg_scale": params.true_cfg_scale,
            "output_format": str(self.output_format),
        }
        return {name: value for name, value in fields.items() if value is not None}


def curl(request: CodeRequest) -> str:
    """The request as a curl command of several lines."""
    options = [f"curl -s {shlex.quote(request.url)}"]
    if request.has_keys:
        options.append('-H "Authorization: Bearer $QWEN_EDIT_KEY"')
    options += [_curl_image(name, request) for name in _in_form_order(request)]
    for name, value in request.fields().items():
        values = (
            [f"{lora['path']}:{lora['scale']:g}" for lora in value] if name == "loras" else [value]
        )
        # not -F, where a leading @ or < in the value names a file
        options += [f"--form-string {shlex.quote(f'{name}={value}')}" for value in values]
    return " \\\n  ".join(options)


def python(request: CodeRequest) -> str:
    """The request as a Python program that needs only the standard library."""
    headers = '{"Content-Type": "application/json"}'
    imports = ""
    if request.has_keys:
        imports = "import os\n"
        headers = (
            "{\n"
            '        "Content-Type": "application/json",\n'
            '        "Authorization": "Bearer " + os.environ["QWEN_EDIT_KEY"],\n'
            "    }"
        )
    program = _PYTHON.replace("import json\n", f"import json\n{imports}", 1)
    values = {
        # its strings, numbers and lists are Python literals too
        "{edit}": json.dumps(request.fields(), ensure_ascii=False, indent=4),
        "{images}": json.dumps(request.image_names(), ensure_ascii=False),
        "{url}": request.url,
        "{headers}": headers,
    }
    # one pass: a prompt may contain text that looks like a placeholder
    return re.sub("|".join(map(re.escape, values)), lambda match: values[match[0]], program)


def _in_form_order(request: CodeRequest) -> list[str]:
    """The images' names, with uploads that precede a URL named by their URL on this server.

    The server puts the files of a form after its text fields.
    """
    names = request.image_names()
    last_url = max((index for index, name in enumerate(names) if is_url(name)), default=-1)
    return [
        request.base_url + image.route if index < last_url and not is_url(name) else name
        for index, (name, image) in enumerate(zip(names, request.images, strict=True))
    ]


def _curl_image(name: str, request: CodeRequest) -> str:
    if is_url(name):
        return f"--form-string {shlex.quote(f'images={name}')}"
    # a comma or semicolon ends an unquoted name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    part = f'image=@"{escaped}"'
    return f"-F {shlex.quote(part)}"
