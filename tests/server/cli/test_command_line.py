"""The command line as a whole: version, help, and errors."""

import pytest

from server.version import VERSION
from tests.server.cli.command import QwenEdit


def test_version_is_that_of_the_package(qwen_edit: QwenEdit) -> None:
    done = qwen_edit("--version")

    assert (done.returncode, done.stdout) == (0, f"qwen-edit {VERSION}\n")


def test_command_line_without_a_command_prints_the_help(qwen_edit: QwenEdit) -> None:
    done = qwen_edit()

    assert done.returncode == 0
    assert all(name in done.stdout for name in ("serve", "doctor", "pull", "edit", "models"))


def test_command_line_suggests_a_command_for_a_typo(qwen_edit: QwenEdit) -> None:
    done = qwen_edit("edti")

    assert done.returncode == 2
    assert done.stderr == "error: No such command 'edti'. Did you mean 'edit'?\n"


def test_wrong_setting_is_one_line_in_every_command(
    qwen_edit: QwenEdit, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QWEN_EDIT_PROT", "1")

    done = qwen_edit("models")

    assert done.returncode == 2
    assert done.stderr.startswith("error: Unknown setting QWEN_EDIT_PROT")
