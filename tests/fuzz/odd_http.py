"""Changes of a request around its body: headers, path, query, method and length."""

import random
from collections.abc import Callable
from dataclasses import dataclass

from tests.fuzz.odd_json import ODD_TEXTS
from tests.fuzz.raw_http import Headers, RawRequest

ODD_BYTES = (
    b"", b" ", b"a", b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\t", b"a,b", b"a;b=c", b'"', b"%00",
    b"*", b"*/*", b"-1", b"0", b"1e400", b"9" * 400, b"a" * 5000, b"null", b"\xc3\xbc", b"\xb2",
    b"http://[", b"a.invalid", b"[::1", b"a:99999", b"\x01", b"\0", b"\x7f", b"a\r\nx-b: c",
    b"http://a.invalid", b"bytes=0-1", b"bytes=-0", b"bytes=a", b"bytes=9-1", b"a" * 256, b"~",
)  # fmt: skip
ODD_HEADERS = (
    b"Host", b"X-Forwarded-Host", b"X-Forwarded-Proto", b"X-Forwarded-Prefix", b"X-Forwarded-For",
    b"Idempotency-Key", b"Idempotency-Key", b"Authorization", b"X-API-Key", b"Accept", b"Cookie",
    b"Accept-Encoding", b"Origin", b"Sec-Fetch-Site", b"Range", b"If-Range", b"Content-Encoding",
    b"Expect", b"x-fal-queue-priority", b"Last-Event-ID", b"Upgrade", b"If-None-Match",
    b"Forwarded",
    b"X-Request-ID", b"", b"\xff", b"a b", b"X" * 5000,
)  # fmt: skip
CONTENT_TYPES = (
    b"", b"text/plain", b"application/xml", b"application/json; charset=utf-16", b"a/b;" * 200,
    b"application/json;a", b"APPLICATION/JSON", b"application/problem+json", b"multipart/form-data",
    b"multipart/form-data; boundary=", b"multipart/form-data; boundary=" + b"a" * 300, b"/",
    b"multipart/form-data; boundary=a b", b"multipart/form-data; boundary=\xff; charset=\xff",
    b"multipart/mixed; boundary=x", b"application/x-www-form-urlencoded", b"image/png, text/html",
    b"multipart/form-data; boundary=x; charset=utf-7", b"application/octet-stream", b"\xff",
)  # fmt: skip
ODD_SEGMENTS = (
    b"", b".", b"..", b"%2e%2e", b"%2F", b"%00", b"%0a", b"%ff", b"%ed%a0%80", b"%", b"%zz", b"*",
    b"a" * 300, b"a/" * 500, b"null", b"-1", b"{id}", b"%F0%9F%8E%A8", b";a=b", b"\xff", b"%5B",
    b"0" * 32, b"requests", b"..%2f..%2fetc%2fpasswd", b"%25%32%65", b"a%0d%0aX-B:%20c", b"%C2%B2",
    b"http:%2F%2F%5B", b"known.safetensors", b"folder.safetensors", b"#a", b" ", b"%E2%80%A8",
)  # fmt: skip
QUERY_NAMES = (
    b"webhook", b"fal_webhook", b"wait", b"status", b"limit", b"offset", b"a", b"", b"%00", b"%",
)  # fmt: skip
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "get", "A" * 300)
# Browsers percent-encode the rest.
SAFE = frozenset(b"abcdefghijklmnopqrstuvwxyz0123456789-._~*'()/:@!$,;[]")


@dataclass(slots=True)
class Draft:
    """A request that is still being changed; without a `length` it is that of the body."""

    method: str
    path: bytes
    headers: Headers
    body: bytes = b""
    length: bytes | None = None
    is_chunked: bool = False
    is_complete: bool = True

    def finished(self) -> RawRequest:
        """Add the headers that every request needs, unless a change has set them."""
        headers = list(self.headers)
        if all(name.lower() != b"host" for name, _ in headers):
            headers.append((b"Host", b"127.0.0.1"))
        if not self.is_chunked:
            length = str(len(self.body)).encode() if self.length is None else self.length
            headers.append((b"Content-Length", length))
        headers.append((b"Connection", b"close"))
        method = self.method.encode()
        return RawRequest(method, self.path, headers, self.body, self.is_complete)


def change(rng: random.Random, draft: Draft) -> None:
    """Change one thing around the body."""
    rng.choice(_CHANGES)(rng, draft)


def _header(rng: random.Random, draft: Draft) -> None:
    draft.headers.append((rng.choice(ODD_HEADERS), rng.choice(ODD_BYTES)))


def _key(rng: random.Random, draft: Draft) -> None:
    """Replace the key, or send one to a server without."""
    kept = [(name, value) for name, value in draft.headers if name != b"X-API-Key"]
    name = rng.choice((b"X-API-Key", b"Authorization"))
    value = rng.choice((b"", b"Bearer ", b"Key ", b"Basic ")) + rng.choice(ODD_BYTES)
    draft.headers = [*kept, (name, value)]


def _content_type(rng: random.Random, draft: Draft) -> None:
    kept = [(name, value) for name, value in draft.headers if name != b"Content-Type"]
    draft.headers = [*kept, (b"Content-Type", rng.choice(CONTENT_TYPES))]


def _segment(rng: random.Random, draft: Draft) -> None:
    """Replace, add or remove a part of the path."""
    path, mark, query = draft.path.partition(b"?")
    parts = path.split(b"/")
    index = rng.randrange(1, len(parts) + 1)
    new = rng.choice(([rng.choice(ODD_SEGMENTS)], [rng.choice(ODD_SEGMENTS)], []))
    changed = b"/".join([*parts[:index], *new, *parts[index + 1 :]])
    draft.path = changed + mark + query


def _last_segment(rng: random.Random, draft: Draft) -> None:
    """Replace the name or id at the end by any text, encoded like browsers do."""
    text = rng.choice(ODD_TEXTS)[:4000].encode("utf-8", "surrogatepass")
    draft.path = draft.path.partition(b"?")[0].rpartition(b"/")[0] + b"/" + _percent(text)


def _query(rng: random.Random, draft: Draft) -> None:
    text = rng.choice(ODD_TEXTS)[:4000].encode("utf-8", "surrogatepass")
    value = rng.choice((_percent(text), rng.choice(ODD_SEGMENTS)))
    pair = rng.choice(QUERY_NAMES) + b"=" + value
    draft.path += (b"&" if b"?" in draft.path else b"?") + b"&".join(
        [pair] * rng.choice((1, 1, 300))
    )


def _method(rng: random.Random, draft: Draft) -> None:
    draft.method = rng.choice(METHODS)


def _chunks(rng: random.Random, draft: Draft) -> None:
    """Send the body in chunks, or in what claims to be chunks."""
    draft.is_chunked = True
    draft.headers.append(
        (b"Transfer-Encoding", rng.choice((b"chunked", b"chunked", b"gzip", b"a")))
    )
    size = rng.choice((b"%x" % len(draft.body), b"zz", b"-1", b"f" * 30, b""))
    draft.body = size + b"\r\n" + draft.body + b"\r\n0\r\n\r\n"
    draft.is_complete = False


def _length(rng: random.Random, draft: Draft) -> None:
    odd = (b"", b"-1", b"a", b"9" * 400, b"+1", b"\xb2", b"0", b"1", b"1, 1", b"1e3", b"9999999999")
    draft.length = rng.choice((*odd, b"%d" % (len(draft.body) + rng.randint(-1, 1))))
    draft.is_complete = False


def _percent(data: bytes) -> bytes:
    return b"".join(bytes([byte]) if byte in SAFE else b"%%%02X" % byte for byte in data)


_CHANGES: tuple[Callable[[random.Random, Draft], None], ...] = (
    _header, _header, _key, _content_type, _segment, _last_segment, _last_segment, _query, _query,
    _method, _chunks, _length,
)  # fmt: skip
