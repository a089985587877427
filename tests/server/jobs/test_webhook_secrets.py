"""Webhook secrets by owner."""

import stat
from pathlib import Path

from server.caller import EVERYBODY, parse_key
from server.jobs.webhook_secrets import WebhookSecrets, read_or_create_secret


def test_named_owners_have_secrets_of_their_own() -> None:
    secrets = WebhookSecrets("whsec_of_the_server")

    found = [secrets.of(owner) for owner in ("alice", "bob", "alice")]

    assert found[0] == found[2] != found[1]
    assert all(secret.startswith("whsec_") and "server" not in secret for secret in found)
    assert WebhookSecrets("whsec_of_another").of("alice") != found[0]


def test_owner_without_a_name_has_the_secret_of_the_server() -> None:
    secrets = WebhookSecrets("whsec_of_the_server")
    bare = parse_key("a-key-without-a-name").caller.owner

    for owner in (None, EVERYBODY.owner, bare):
        assert secrets.of(owner) == "whsec_of_the_server"


def test_secret_is_created_once_and_readable_by_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "webhook_secret"
    (tmp_path / "webhook_secret.part").write_text("half")
    secret = read_or_create_secret(path)
    assert secret.startswith("whsec_")
    assert len(secret) == len("whsec_") + 64
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_or_create_secret(path) == secret
    assert [found.name for found in tmp_path.iterdir()] == ["webhook_secret"]
