"""Settings from the environment and flags, and messages about wrong ones."""

import os
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest

from server.settings import Settings, SettingsError, read_settings


@pytest.fixture(autouse=True)
def _no_settings_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        if name.upper().startswith("QWEN_EDIT_"):
            monkeypatch.delenv(name)


@pytest.fixture
def keys_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys"
    path.write_text("the-first-api-key\n\n  the-second-api-key  \n")
    return path


def refusal(**flags: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        read_settings(**flags)
    return str(caught.value)


def test_defaults_serve_this_machine_only() -> None:
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


def test_absent_flag_leaves_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_PORT", "9000")

    assert read_settings(port=None).port == 9000


def test_unknown_variable_is_reported_with_the_known_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_PROT", "9000")

    message = refusal()

    assert message.startswith("Unknown setting QWEN_EDIT_PROT. Known: ")
    assert "QWEN_EDIT_PORT" in message


def test_client_variables_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
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
def test_malformed_variable_is_reported_with_its_value(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str
) -> None:
    monkeypatch.setenv(f"QWEN_EDIT_{name}", value)

    message = refusal()

    assert message.startswith(f"QWEN_EDIT_{name}=")
    assert value.rpartition(",")[2] in message


def test_lists_are_comma_separated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_API_KEYS", "the-first-api-key, the-second-api-key,,")
    monkeypatch.setenv("QWEN_EDIT_ALLOW_NETWORKS", "10.0.0.0/8, fd00::/8,192.168.1.5")

    settings = read_settings()

    assert settings.api_keys == ("the-first-api-key", "the-second-api-key")
    assert settings.allow_networks == (
        ip_network("10.0.0.0/8"),
        ip_network("fd00::/8"),
        ip_network("192.168.1.5/32"),
    )


def test_tokens_are_read_by_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_DOWNLOAD_TOKENS", "Civitai.com=abc=, example.org = d ,")

    assert read_settings().download_tokens == {"civitai.com": "abc=", "example.org": "d"}


@pytest.mark.parametrize("value", ["secret-token", "host=", "=secret-token", "a=b,secret-token"])
def test_malformed_tokens_are_reported_without_their_value(
    monkeypatch: pytest.MonkeyPatch, value: str
) -> None:
    monkeypatch.setenv("QWEN_EDIT_DOWNLOAD_TOKENS", value)

    message = refusal()

    assert message.startswith("QWEN_EDIT_DOWNLOAD_TOKENS")
    assert "secret-token" not in message


def test_device_list_has_one_entry_per_worker() -> None:
    assert read_settings(device="cuda:0, cuda:1").devices == ("cuda:0", "cuda:1")


def test_keys_file_adds_to_the_given_keys(keys_file: Path) -> None:
    settings = read_settings(api_keys="alice=the-given-api-key", api_keys_file=keys_file)

    assert [key.secret for key in settings.all_api_keys()] == [
        "the-given-api-key",
        "the-first-api-key",
        "the-second-api-key",
    ]


@pytest.mark.parametrize("keys", ["secret", "a=secret", "the-long-enough-key,secret"])
def test_short_key_is_refused_without_showing_it(keys: str) -> None:
    message = refusal(api_keys=keys)

    assert message.startswith("QWEN_EDIT_API_KEYS has a key of ")
    assert "at least 16" in message
    assert "secret" not in message


def test_short_key_in_the_file_names_the_file_variable(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("short")

    message = refusal(api_keys_file=tmp_path / "keys")

    assert message.startswith("QWEN_EDIT_API_KEYS_FILE has a key of 5 characters")


def test_key_of_two_owners_is_refused_without_showing_it() -> None:
    message = refusal(api_keys="alice=the-very-same-key,bob=the-very-same-key")

    assert message == "'alice' and 'bob' have the same API key; each key needs one owner"


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_unreadable_keys_file_is_reported(tmp_path: Path, host: str) -> None:
    message = refusal(host=host, api_keys_file=tmp_path / "missing")

    assert "QWEN_EDIT_API_KEYS_FILE" in message
    assert str(tmp_path / "missing") in message


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.9.10", "localhost", "::1"])
def test_loopback_requires_no_keys(host: str) -> None:
    assert read_settings(host=host).is_loopback


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.2", "gpu.example", ""])
def test_public_address_is_refused_without_keys(host: str) -> None:
    assert refusal(host=host) == (
        f"{host} can be reached by others: set QWEN_EDIT_API_KEYS (or QWEN_EDIT_API_KEYS_FILE), "
        "or pass --no-auth to serve everyone"
    )


def test_empty_keys_file_counts_as_no_keys(tmp_path: Path) -> None:
    empty = tmp_path / "keys"
    empty.write_text("\n \n")

    assert "can be reached by others" in refusal(host="0.0.0.0", api_keys_file=empty)


def test_public_address_is_allowed_with_keys(keys_file: Path) -> None:
    assert not read_settings(host="0.0.0.0", api_keys="the-first-api-key").is_loopback
    assert not read_settings(host="0.0.0.0", api_keys_file=keys_file).is_loopback


def test_public_address_is_allowed_with_no_auth() -> None:
    assert read_settings(host="0.0.0.0", no_auth=True).all_api_keys() == ()


def test_public_url_loses_its_trailing_slash() -> None:
    assert read_settings(public_url="https://host/base/").public_url == "https://host/base"


def test_settings_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        read_settings().port = 1


@pytest.mark.parametrize("name", Settings.model_fields)
def test_every_setting_has_a_description(name: str) -> None:
    assert Settings.model_fields[name].description
