"""Callers of the server, and the API keys that tell them apart."""

import hashlib
import re
from dataclasses import dataclass

MIN_KEY_CHARS = 16
_NAMED = re.compile(rf"(admin:)?([A-Za-z0-9_.-]{{1,32}})=(.{{{MIN_KEY_CHARS},}})")


@dataclass(frozen=True, slots=True)
class Caller:
    """The sender of a request: `owner` is stored with what it creates.

    An admin sees and changes everything, also LoRAs; another caller only what its owner created.
    """

    owner: str
    is_admin: bool

    def may_see(self, owner: str | None) -> bool:
        """Return whether something of `owner` exists for this caller.

        None is the owner of what was created before owners were stored. Who knows its id may see
        it, because nobody can tell any more whose it is.
        """
        return self.is_admin or owner is None or owner == self.owner


# Where no key is needed, everybody is this caller, whatever key a client sends. No key can have a
# name that starts with `#`.
EVERYBODY = Caller("#everybody", is_admin=True)


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key and the caller that sends it."""

    secret: str
    caller: Caller


def is_name(owner: str) -> bool:
    """Return whether an owner is the name of a key, not the hash of one."""
    return not owner.startswith("#")


def parse_key(entry: str) -> ApiKey:
    """Parse one configured key: `name=key`, `admin:name=key`, or the key alone, an admin's.

    A key alone is named by its hash. An entry whose part behind `=` is shorter than a key may be
    is a key alone. Raises ValueError, without the key, if it is shorter than MIN_KEY_CHARS.
    """
    if named := _NAMED.fullmatch(entry):
        admin, name, secret = named.groups()
        return ApiKey(secret, Caller(name, is_admin=admin is not None))
    if len(entry) < MIN_KEY_CHARS:
        raise ValueError(
            f"has a key of {len(entry)} characters; a key needs at least {MIN_KEY_CHARS}, such as "
            f"the output of `openssl rand -hex 16`"
        )
    digest = hashlib.sha256(entry.encode()).hexdigest()
    return ApiKey(entry, Caller(f"#{digest[:12]}", is_admin=True))
