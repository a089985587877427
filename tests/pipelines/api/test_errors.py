"""Texts of libraries as clients may read them."""

import pytest

from pipelines.api.errors import without_paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("no '/srv/models/x/vae/config.json'", "no 'config.json'"),
        ("OSError('/root/.cache/huggingface/hub/models--a/b')", "OSError('b')"),
        ("in ~/weights/x: unknown", "in x: unknown"),
        ("under /srv/weights/models; choose", "under models; choose"),
        ("/srv/a/ is empty", "… is empty"),
        # neither URLs nor relative names are paths of this machine
        ("https://huggingface.co/a/b/c answered 404", "https://huggingface.co/a/b/c answered 404"),
        ("loras/0/path must not be empty", "loras/0/path must not be empty"),
        ("either/or, 1/2 and a / b", "either/or, 1/2 and a / b"),
    ],
)
def test_files_are_named_without_their_folders(text: str, expected: str) -> None:
    assert without_paths(text) == expected
