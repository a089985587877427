"""Presets: what a file may say, and what is made of a request."""

from pathlib import Path

import pytest

from pipelines.api.errors import InvalidParameter, PresetInvalid, PresetNotFound
from pipelines.api.params import EditParams, LoraRef
from pipelines.api.sampling import NO_TERMINAL, Sampling
from pipelines.files.presets import PresetEntry, PresetFolder, read_preset

WHOLE = """
title = "Anime, fast"
prompt_prefix = "<sks>"
prompt_suffix = "anime style"
negative_prompt = "photo"

[[loras]]
path = "photo-to-anime"
scale = 0.9

[[loras]]
path = "lightning-4steps"

[sampling]
steps = 4
shift = 3
sigmas = []
"""


def write(folder: Path, text: str, name: str = "anime") -> Path:
    path = folder / f"{name}.toml"
    path.write_text(text)
    return path


def params(**fields: object) -> EditParams:
    return EditParams("make it so", 1, **fields)  # type: ignore[arg-type]


def test_preset_completes_a_request(tmp_path: Path) -> None:
    preset = read_preset(write(tmp_path, WHOLE.replace("sigmas = []\n", "")))
    own = LoraRef("mine", 0.5)

    made = preset.applied(params(loras=(own,)))

    assert preset.title == "Anime, fast"
    assert made.loras == (own, LoraRef("photo-to-anime", 0.9), LoraRef("lightning-4steps", 1.0))
    assert made.own_loras == (own,)
    assert made.preset_sampling == Sampling(steps=4, shift=3.0)
    assert made.with_affixes(made.prompt) == "<sks> make it so anime style"
    assert made.negative_prompt == "photo"


def test_request_goes_before_the_preset(tmp_path: Path) -> None:
    preset = read_preset(write(tmp_path, 'negative_prompt = "photo"\n[sampling]\nsteps = 4'))

    made = preset.applied(params(negative_prompt="blur", num_inference_steps=9))

    assert (made.negative_prompt, made.num_inference_steps) == ("blur", 9)
    # an empty one is the client's word too
    assert preset.applied(params(negative_prompt="")).negative_prompt == ""


def test_preset_and_request_have_three_loras_together(tmp_path: Path) -> None:
    preset = read_preset(write(tmp_path, '[[loras]]\npath = "a"\n[[loras]]\npath = "b"'))
    two = (LoraRef("c"), LoraRef("d"))

    with pytest.raises(InvalidParameter) as caught:
        preset.applied(params(loras=two))

    assert str(caught.value) == (
        "loras must have at most 3 entries together with the 2 of the preset anime, got 2"
    )


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("title = ", "Invalid value"),
        ("step = 4", "the file has unknown keys: step; allowed are title, prompt_prefix"),
        ("title = 4", "title must be a text, got 4"),
        ("loras = 4", "loras must be tables"),
        ("[[loras]]\nscale = 1", "the path of a LoRA must be a text, got None"),
        ('[[loras]]\npath = "a"\nscale = "b"', "the scale of a must be a number, got 'b'"),
        ('[[loras]]\npath = "a"\nscale = 5', "must be between 0.0 and 4.0, got 5.0"),
        ('[[loras]]\npath = "a"\nweight = 1', "a table of loras has unknown keys: weight"),
        ('[[loras]]\npath = "a"\n' * 4, "loras has at most 3 entries, got 4"),
        ("[sampling]\nsteps = 1", "steps must be between 2 and 100, got 1"),
        ("[sampling]\nstep = 1", "unknown keys: step"),
        (WHOLE, "sigmas must have 1 to 100 entries, got 0"),
    ],
)
def test_faulty_preset_is_refused_by_name_and_listed(
    tmp_path: Path, text: str, reason: str
) -> None:
    write(tmp_path, text)
    folder = PresetFolder(tmp_path)

    with pytest.raises(PresetInvalid) as caught:
        folder.find("anime")

    message = str(caught.value)
    assert message.startswith("The preset anime.toml cannot be used: ")
    assert reason in message
    assert str(tmp_path) not in message
    assert folder.entries() == [PresetEntry("anime", "anime", message)]


def test_file_that_is_no_text_is_listed_with_its_fault(tmp_path: Path) -> None:
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    (tmp_path / "b c.toml").write_text("")

    problems = {entry.name: entry.problem for entry in PresetFolder(tmp_path).entries()}

    assert "codec can't decode" in str(problems["a"])
    assert "the name must match" in str(problems["b c"])


@pytest.mark.parametrize("name", ["other", "", "../anime", "anime.toml", "a/b", "a" * 300])
def test_unknown_preset_is_refused_with_those_that_exist(tmp_path: Path, name: str) -> None:
    write(tmp_path, "")

    with pytest.raises(PresetNotFound, match=r"Found: anime\.$"):
        PresetFolder(tmp_path).find(name)


def test_no_terminal_is_zero_in_toml(tmp_path: Path) -> None:
    """TOML has no null."""
    preset = read_preset(write(tmp_path, "[sampling]\nshift_terminal = 0"))

    assert preset.sampling == Sampling(shift_terminal=NO_TERMINAL)


def test_folder_that_does_not_exist_has_no_presets(tmp_path: Path) -> None:
    assert PresetFolder(tmp_path / "presets").entries() == []
