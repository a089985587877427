"""The request as code; `browser/test_code.py` runs it."""

import ast
import dataclasses

from pipelines.api.params import EditParams, LoraRef
from server.job import OutputFormat
from server.playground.images import StoredImage
from server.playground.snippets import CodeRequest, curl, python

FILE = StoredImage("/uploads/a.png", "cat.png")
URL = StoredImage("/uploads/b.png", "https://example.com/b.png")
OUTPUT = StoredImage("/outputs/c.png", None)


def code_request(
    *images: StoredImage, has_keys: bool = False, is_seed_chosen: bool = True
) -> CodeRequest:
    params = EditParams("it's", 7, loras=(LoraRef("https://a/b:c", 0.5),), num_outputs=2)
    return CodeRequest(params, is_seed_chosen, images, OutputFormat.PNG, "http://here", has_keys)


def test_curl_sends_files_as_files_and_urls_as_text() -> None:
    text = curl(code_request(URL, FILE))

    assert "-F 'image=@\"cat.png\"'" in text
    assert "--form-string images=https://example.com/b.png" in text
    assert "--form-string loras=https://a/b:c:0.5" in text


def test_curl_keeps_the_order_of_images() -> None:
    # the server puts a form's files after its text fields
    text = curl(code_request(FILE, URL))

    assert text.index("http://here/uploads/a.png") < text.index("https://example.com/b.png")
    assert "image=@" not in text


def test_curl_names_an_output_by_its_url() -> None:
    assert "images=http://here/outputs/c.png" in curl(code_request(OUTPUT))


def test_curl_escapes_quotes_in_a_file_name() -> None:
    text = curl(code_request(StoredImage("/uploads/a.png", 'a "b"\\;c.png')))

    assert """'image=@"a \\"b\\"\\\\;c.png"'""" in text


def test_code_reads_the_key_from_the_environment() -> None:
    assert "$QWEN_EDIT_KEY" in curl(code_request(FILE, has_keys=True))
    assert 'os.environ["QWEN_EDIT_KEY"]' in python(code_request(FILE, has_keys=True))
    assert "KEY" not in curl(code_request(FILE)) + python(code_request(FILE))


def test_drawn_seed_is_left_to_the_server() -> None:
    assert "seed=7" in curl(code_request(FILE))
    assert "seed" not in curl(code_request(FILE, is_seed_chosen=False))


def test_prompt_that_looks_like_a_place_in_the_program_stays_a_prompt() -> None:
    params = EditParams('Write "{url}", {images} and {headers}', 7)
    program = python(dataclasses.replace(code_request(FILE), params=params))

    assigned = next(node for node in ast.parse(program).body if isinstance(node, ast.Assign))
    assert ast.literal_eval(assigned.value)["prompt"] == params.prompt


def test_python_is_python() -> None:
    for has_keys in (False, True):
        ast.parse(python(code_request(FILE, URL, has_keys=has_keys)))
