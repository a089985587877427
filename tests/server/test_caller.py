"""How configured keys are read: names, rights, and who may see what."""

import pytest

from server.caller import EVERYBODY, Caller, parse_key

SECRET = "0123456789abcdef"


@pytest.mark.parametrize(
    ("entry", "secret", "caller"),
    [
        (f"alice={SECRET}", SECRET, Caller("alice", is_admin=False)),
        (f"admin:alice={SECRET}", SECRET, Caller("alice", is_admin=True)),
        (f"admin={SECRET}", SECRET, Caller("admin", is_admin=False)),
        (f"A-b_c.9={SECRET}=", f"{SECRET}=", Caller("A-b_c.9", is_admin=False)),
        ("a" * 32 + f"={SECRET}", SECRET, Caller("a" * 32, is_admin=False)),
    ],
)
def test_named_key_is_split(entry: str, secret: str, caller: Caller) -> None:
    key = parse_key(entry)

    assert (key.secret, key.caller) == (secret, caller)


@pytest.mark.parametrize(
    "entry",
    [
        SECRET,
        f"{SECRET}==",
        "sk-base64/+text=short",
        f"a name={SECRET}",
        "a" * 33 + f"={SECRET}",
        f"={SECRET}",
        f"Admin:alice={SECRET}",
        f"alice={SECRET[:15]}",
    ],
)
def test_any_other_entry_is_the_key_of_an_admin_named_by_its_hash(entry: str) -> None:
    key = parse_key(entry)

    assert key.secret == entry
    assert key.caller.is_admin
    assert key.caller.owner.startswith("#")
    assert key.caller == parse_key(entry).caller
    assert entry not in key.caller.owner


def test_two_keys_without_a_name_have_different_owners() -> None:
    assert parse_key(SECRET).caller != parse_key(SECRET[::-1]).caller


@pytest.mark.parametrize("entry", ["", "short", SECRET[:15], "a=short"])
def test_short_key_is_refused_without_showing_it(entry: str) -> None:
    with pytest.raises(ValueError, match=f"a key of {len(entry)} characters") as caught:
        parse_key(entry)

    assert not entry or entry not in str(caught.value)


def test_caller_sees_its_own_and_what_has_no_owner() -> None:
    alice = Caller("alice", is_admin=False)

    assert [alice.may_see(owner) for owner in ("alice", "bob", None)] == [True, False, True]
    assert all(EVERYBODY.may_see(owner) for owner in ("alice", "bob", None))
