"""JSON that no honest client sends: odd values in a good body, and bodies that are not JSON."""

import json
import random
from collections.abc import Callable
from typing import Any

MAX_DEPTH = 6


class Raw(str):
    """Text that stands in the body as it is, for values that Python's JSON cannot write."""


class Pairs(list[tuple[str, Any]]):
    """An object whose keys may repeat."""


ODD_TEXTS = (
    "", " ", "\0", "a\0b", "\n", "a\r\nb: c", "\x1b[31m", "\x7f", "\u0085", "\u2028", "\u202e",
    "\ufeff", "\uffff", "\U0001f9d1\u200d\U0001f3a8", "e\u0301" * 40, "\ud800", "a\udfffb", "null",
    "true", "0", "-1", "1e400", "NaN", "9" * 5000, "512*512*512", "*", "-1*-1", "0*0", "1*99999999",
    "٣*٣", "²*²", "512x512", "..", ".", "/", "../../etc/passwd", "/etc/passwd", "C:\\", "~", "%00",
    "%2e%2e%2f", "a" * 300, "a/" * 2500, "a" * 70_000, "http://", "http://[", "http://[::1",
    "http://a:99999/", "http://127.0.0.1:1/a.png", "http://0x7f.1/", "https://a.invalid/b", "http://@",
    "http://a.invalid:b/", "http://\u2100.invalid/", "http://a b/", "HTTP://A.INVALID/\ud800",
    "https://huggingface.co/a/../b", "https://huggingface.co/a/b/resolve/main/%2e%2e/c.safetensors",
    "https://huggingface.co/a/b", "owner/repo", "owner/repo/a.safetensors", "file:///etc/passwd",
    "data:", "data:,", "data:;base64,", "data:image/png;base64,%%%", "data:image/png;base64,AAAA",
    "data:image/png,%89PNG", "data:" + "a" * 5000 + ",", "AAAA", "AAA=A", "iVBORw0KGgo", "ⅷ",
    "{{7*7}}", "' OR 1=1 --", "<script>", "\\", '"', "${jndi:ldap://a}", "1;2", "b64_json", "url",
    "png", "jpeg", "webp", "gif", "completed", "2026-02-30", "0001-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59", "1e9999", "infinity",
)  # fmt: skip
ODD_NUMBERS = (
    0, -0.0, 1, -1, 2, 0.5, -1e-320, 5e-324, 1e308, 2**31, 2**32 - 1, 2**53 + 1, 2**63, 2**64,
    -(2**63) - 1, 10**400, -(10**400), float("nan"), float("inf"), -float("inf"), Raw("1e400"),
    Raw("-1E+999999999"), Raw("9" * 5000), Raw("0" * 400), Raw("01"), Raw("-"), Raw("1."),
    Raw("0x10"),
)  # fmt: skip
ODD_OTHERS = (
    None, True, False, [], {}, [[]], [None], [[], [[]]], {"": ""}, {"a": {"b": []}}, [0] * 2000,
    ["a"] * 1001, {"path": "a"}, [{"path": "\ud800"}], [{"path": ".."}], {"width": 10**400},
    {"width": 512, "height": -1}, {"__proto__": 1}, Raw("undefined"), Raw("'a'"), Raw(""),
    Raw('"\\ud83d"'),
    Raw('"\\u12"'), Raw('"a'), Raw('"\x01"'), Raw("[1,]"), Raw("/**/1"), Raw("[" * 400 + "]" * 400),
    Raw("[" * 100_000), Raw('{"a":' * 5000), Raw("nul"),
)  # fmt: skip
BROKEN_BODIES = (
    b"", b" ", b"null", b"0", b'"a"', b"[]", b"{", b"}", b"[", b'{"prompt"', b'{"prompt":}',
    b"{}{}",
    b"{'prompt': 'a'}", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0", b"\0", b"\x80", b'{"prompt": "\xff"}',
    b'{"prompt": "\xed\xa0\x80"}', b'{"\\ud800": 1}', b"[" * 200_000, b'{"a":' * 50_000,
    b"NaN", b"1" * 10_000, b"prompt=a", b"<a/>", b"--x\r\n\r\n--x--", b'{"prompt": "a"} //',
)  # fmt: skip


def odd_value(rng: random.Random) -> Any:
    """A value that a field may not expect."""
    return rng.choice(rng.choice((ODD_TEXTS, ODD_NUMBERS, ODD_OTHERS)))


def dump(value: Any) -> bytes:
    """Write JSON, or nearly: raw text, NaN, halves of surrogate pairs and repeated keys stay."""
    if isinstance(value, Raw):
        text = str(value)
        return text.encode("utf-8", "surrogatepass")
    if isinstance(value, Pairs | dict):
        pairs = value if isinstance(value, Pairs) else value.items()
        return b"{" + b",".join(dump(str(key)) + b":" + dump(each) for key, each in pairs) + b"}"
    if isinstance(value, list):
        return b"[" + b",".join(map(dump, value)) + b"]"
    return json.dumps(value).encode()


def mutated(rng: random.Random, value: Any, depth: int = 0) -> Any:
    """Change one place of a body, at any depth."""
    inner = isinstance(value, dict | list) and len(value) > 0 and depth < MAX_DEPTH
    if not inner or (rng.random() < 0.1 and depth > 0):
        return odd_value(rng)
    if isinstance(value, list):
        index = rng.randrange(len(value))
        return [*value[:index], mutated(rng, value[index], depth + 1), *value[index + 1 :]]
    return rng.choice(_OBJECT_MUTATIONS)(rng, value, depth)


def _change(rng: random.Random, fields: dict[str, Any], depth: int) -> Any:
    name = rng.choice(sorted(fields))
    return fields | {name: mutated(rng, fields[name], depth + 1)}


def _replace(rng: random.Random, fields: dict[str, Any], depth: int) -> Any:
    return fields | {rng.choice(sorted(fields)): odd_value(rng)}


def _drop(rng: random.Random, fields: dict[str, Any], depth: int) -> Any:
    name = rng.choice(sorted(fields))
    return {key: value for key, value in fields.items() if key != name}


def _add(rng: random.Random, fields: dict[str, Any], depth: int) -> Any:
    return fields | {rng.choice(ODD_TEXTS): odd_value(rng)}


def _repeat(rng: random.Random, fields: dict[str, Any], depth: int) -> Any:
    name = rng.choice(sorted(fields))
    return Pairs([*fields.items(), (name, odd_value(rng))])


def _wrap(rng: random.Random, fields: dict[str, Any], depth: int) -> Any:
    name = rng.choice(sorted(fields))
    wrapped: Any = fields[name]
    for _ in range(rng.choice((1, 2, 100))):
        wrapped = [wrapped]
    return fields | {name: wrapped}


# Twice as often: most faults hide behind one odd field in an otherwise good body.
_OBJECT_MUTATIONS: tuple[Callable[[random.Random, dict[str, Any], int], Any], ...] = (
    _change, _change, _change, _replace, _replace, _drop, _add, _repeat, _wrap,
)  # fmt: skip


def json_body(rng: random.Random, good: dict[str, Any]) -> bytes:
    """The body with one to three changes, damaged bytes, or something else entirely."""
    if rng.random() < 0.08:
        return rng.choice(BROKEN_BODIES)
    body: Any = good
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        body = mutated(rng, body) if isinstance(body, dict | list) else body
    data = dump(body)
    if rng.random() < 0.08:
        place = rng.randrange(len(data) + 1)
        data = rng.choice((data[:place], data[:place] + rng.randbytes(3) + data[place:]))
    return data
