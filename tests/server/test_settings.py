"""Settings: read from the environment and the flags, and named when they are wrong."""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from server.settings import Settings, SettingsError, read_settings


@pytest.fixture(autouse=True)
def _no_settings_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("QWEN_EDIT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("first\n\n  second  \n")
    return path


def refusal(**flags: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(**flags)
    return str(caught.value)


def test_defaults_serve_this_machine_alone() -> None:
    settings = read_settings()

    assert (settings.host, settings.port, settings.all_api_keys()) == ("127.0.0.1", 8000, ())
    assert settings.allow_networks == ()


def test_environment_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_PORT", "9000")
    monkeypatch.setenv("QWEN_EDIT_WEIGHTS_DIR", "/models")

    settings = read_settings()

    assert (settings.port, settings.weights_dir) == (9000, Path("/models"))


def test_flag_wins_over_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_PORT", "9000")

    assert read_settings(port=7000).port == 7000


def test_flag_that_was_not_given_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_PORT", "9000")

    assert read_settings(port=None).port == 9000


def test_unknown_variable_is_named_with_those_that_exist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_PROT", "9000")

    sentence = refusal()

    assert sentence.startswith("Unknown setting QWEN_EDIT_PROT. Known: ")
    assert "QWEN_EDIT_PORT" in sentence


def test_variables_of_the_clients_are_no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_SERVER", "http://host:8000")
    monkeypatch.setenv("QWEN_EDIT_KEY", "secret")

    assert read_settings().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("PORT", "abc"),
        ("PORT", "70000"),
        ("PORT", "-1"),
        ("MAX_WAITING_JOBS", "0"),
        ("JOB_TIMEOUT_S", "0"),
        ("SYNC_TIMEOUT_S", "-1"),
        ("FETCH_TIMEOUT_S", "soon"),
        ("LORA_TIMEOUT_S", "0"),
        ("MAX_LORA_MB", "0"),
        ("KEEP_OUTPUTS_H", "0"),
        ("OFFLOAD", "some"),
        ("DTYPE", "int8"),
        ("OFFLINE", "perhaps"),
        ("PUBLIC_URL", "host.example"),
        ("ALLOW_NETWORKS", "10.0.0.0/8,everything"),
        ("ALLOW_NETWORKS", "10.0.0.1/8"),
        ("DEVICE", ""),
    ],
)
def test_malformed_variable_is_named_with_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"QWEN_EDIT_{name}", value)

    sentence = refusal()

    assert sentence.startswith(f"QWEN_EDIT_{name}=")
    assert value.rpartition(",")[2] in sentence


def test_lists_are_separated_by_commas(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_API_KEYS", "one, two,,")
    monkeypatch.setenv("QWEN_EDIT_ALLOW_NETWORKS", "10.0.0.0/8, fd00::/8,192.168.1.5")

    settings = read_settings()

    assert settings.api_keys == ("one", "two")
    assert settings.allow_networks == (
        ip_network("10.0.0.0/8"),
        ip_network("fd00::/8"),
        ip_network("192.168.1.5/32"),
    )


def test_tokens_belong_to_hosts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_DOWNLOAD_TOKENS", "Civitai.com=abc=, example.org = d ,")

    assert read_settings().download_tokens == {"civitai.com": "abc=", "example.org": "d"}


@pytest.mark.parametrize("value", ["secret-token", "host=", "=secret-token", "a=b,secret-token"])
def test_malformed_tokens_are_named_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("QWEN_EDIT_DOWNLOAD_TOKENS", value)

    sentence = refusal()

    assert sentence.startswith("QWEN_EDIT_DOWNLOAD_TOKENS")
    assert "secret-token" not in sentence


def test_devices_are_one_per_worker() -> None:
    assert read_settings(device="cuda:0, cuda:1").devices == ("cuda:0", "cuda:1")


def test_keys_are_read_from_a_file_too(keys_file: Path) -> None:
    settings = read_settings(api_keys="given", api_keys_file=keys_file)

    assert settings.all_api_keys() == ("given", "first", "second")


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_keys_file_that_cannot_be_read_is_named(tmp_path: Path, host: str) -> None:
    sentence = refusal(host=host, api_keys_file=tmp_path / "missing")

    assert "QWEN_EDIT_API_KEYS_FILE" in sentence
    assert str(tmp_path / "missing") in sentence


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1"])
def test_loopback_needs_no_keys(host: str) -> None:
    assert read_settings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "gpu.example", ""])
def test_address_that_others_reach_is_refused_without_keys(host: str) -> None:
    assert refusal(host=host) == (
        f"{host} can be reached by others: set QWEN_EDIT_API_KEYS (or QWEN_EDIT_API_KEYS_FILE), "
        "or say --no-auth to serve everybody"
    )


def test_empty_keys_file_is_no_key(tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("\n \n")

    assert "can be reached by others" in refusal(host="0.0.0.0", api_keys_file=empty)


def test_keys_allow_an_address_that_others_reach(keys_file: Path) -> None:
    assert not read_settings(host="0.0.0.0", api_keys="one").is_loopback
    assert not read_settings(host="0.0.0.0", api_keys_file=keys_file).is_loopback


def test_no_auth_allows_an_address_that_others_reach() -> None:
    assert read_settings(host="0.0.0.0", no_auth=True).all_api_keys() == ()


def test_public_url_loses_the_slash_at_its_end() -> None:
    assert read_settings(public_url="https://host/base/").public_url == "https://host/base"


def test_settings_do_not_change_once_read() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().port = 1


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_help_text(name: str) -> None:
    assert Settings.model_fields[name].description
