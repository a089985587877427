"""The request as curl and Python; `browser/test_code.py` runs them."""

import ast
import dataclasses

from pipelines.api.params import EditParams, LoraRef
from server.job import OutputFormat
from server.playground.images import KeptImage
from server.playground.snippets import Asked, curl, python

FILE = KeptImage("/uploads/a.png", "cat.png")
URL = KeptImage("/uploads/b.png", "https://example.com/b.png")
OUTPUT = KeptImage("/outputs/c.png", None)


def asked(*images: KeptImage, has_keys: bool = False, is_seed_chosen: bool = True) -> Asked:
    params = EditParams("it's", 7, loras=(LoraRef("https://a/b:c", 0.5),), num_outputs=2)
    return Asked(params, is_seed_chosen, images, OutputFormat.PNG, "http://here", has_keys)


def test_curl_sends_files_as_files_and_urls_as_text() -> None:
    text = curl(asked(URL, FILE))

    assert "-F 'image=@\"cat.png\"'" in text
    assert "--form-string images=https://example.com/b.png" in text
    assert "--form-string loras=https://a/b:c:0.5" in text


def test_curl_keeps_the_order_of_images() -> None:
    # a form's files come behind its texts
    text = curl(asked(FILE, URL))

    assert text.index("http://here/uploads/a.png") < text.index("https://example.com/b.png")
    assert "image=@" not in text


def test_output_is_named_by_its_url() -> None:
    assert "images=http://here/outputs/c.png" in curl(asked(OUTPUT))


def test_quotes_in_a_file_name_stay_in_it() -> None:
    text = curl(asked(KeptImage("/uploads/a.png", 'a "b"\\;c.png')))

    assert """'image=@"a \\"b\\"\\\\;c.png"'""" in text


def test_key_is_named_and_not_shown() -> None:
    assert "$QWEN_EDIT_KEY" in curl(asked(FILE, has_keys=True))
    assert 'os.environ["QWEN_EDIT_KEY"]' in python(asked(FILE, has_keys=True))
    assert "KEY" not in curl(asked(FILE)) + python(asked(FILE))


def test_drawn_seed_is_left_to_the_server() -> None:
    assert "seed=7" in curl(asked(FILE))
    assert "seed" not in curl(asked(FILE, is_seed_chosen=False))


def test_prompt_that_looks_like_a_place_in_the_program_stays_a_prompt() -> None:
    params = EditParams('Write "{url}", {images} and {headers}', 7)
    program = python(dataclasses.replace(asked(FILE), params=params))

    assigned = next(node for node in ast.parse(program).body if isinstance(node, ast.Assign))
    assert ast.literal_eval(assigned.value)["prompt"] == params.prompt


def test_python_is_python() -> None:
    for has_keys in (False, True):
        ast.parse(python(asked(FILE, URL, has_keys=has_keys)))
