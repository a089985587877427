"""Multipart forms with odd parts, broken borders, damaged files, or none of what they announce."""

import random
from collections.abc import Sequence
from dataclasses import replace

from tests.fuzz.bad_files import bad_image, bad_lora
from tests.fuzz.odd_json import ODD_TEXTS
from tests.fuzz.targets import Part

BOUNDARY = b"fuzz-boundary"
FORM = b"multipart/form-data; boundary=" + BOUNDARY
END = b"--" + BOUNDARY + b"--\r\n"
ODD_PART_NAMES = (
    "", "file", "image", "image[]", "image[0]", "images", "url", "mask", "loras", "loras[0][path]",
    "loras[][path]", "loras[][scale]", "loras[999][a]", "loras[-1]", "name", "replace", "prompt",
    "a[b]", '"', "\\", "\n", "\0", "a" * 5000, "\xff", "ü", "charset", "_charset_", "prompt[]",
)  # fmt: skip
ODD_FILE_NAMES = (
    "", ".", "..", "/", "a/b", "../../a.safetensors", "a.safetensors/b.safetensors", "a\\b.png",
    "a" * 300 + ".safetensors", "a/" * 2500 + "a.safetensors", ".safetensors", "\0.safetensors",
    "a\x7f.safetensors", "\u2028.safetensors", "\u202e.safetensors", "ü.safetensors",
    " .safetensors",
    "a.SAFETENSORS", "folder.safetensors", "CON.safetensors", "-rf.safetensors", "a.safetensors ",
    "%2e%2e%2fa.safetensors", "http://a/b.safetensors", "~/a.safetensors", "known.safetensors",
    "new.safetensors", "d/new.safetensors", "a;b", "a=b", "utf-8''a", "a.svg", "a.html",
    "a.png.exe",
)  # fmt: skip
BROKEN_PART_HEADS = (
    b"", b"\r\n", b"Content-Disposition: form-data\r\n", b"Content-Disposition: a; name=prompt\r\n",
    b"Content-Disposition: form-data; name=\r\n", b"Content-Type: image/png\r\n", b"a\r\n",
    b":\r\n",
    b'Content-Disposition: form-data; name="a\r\n', b"Content-Disposition: \xff; name=\xff\r\n",
    b"Content-Disposition: form-data; name*=utf-8''%ff; filename*=x''%\r\n", b"A: " + b"a" * 70_000,
    b'Content-Disposition: form-data; name="file"; filename="a"\r\nContent-Type: \xff\0\r\n',
    b'Content-Disposition: form-data; name="image"; filename=\xed\xa0\x80\r\n', b"\0: \0\r\n",
)  # fmt: skip


def form_body(rng: random.Random, parts: Sequence[Part]) -> tuple[bytes, bytes]:
    """The content type and the body of a form with one or two changes."""
    changed = [_damaged(rng, part) for part in parts]
    if rng.random() < 0.7:
        changed = _with_odd_part(rng, changed)
    pieces = [_encoded(part) for part in changed]
    if rng.random() < 0.1:
        pieces.insert(rng.randrange(len(pieces) + 1), _broken_piece(rng))
    return _joined(rng, pieces)


def good_form_body(parts: Sequence[Part]) -> tuple[bytes, bytes]:
    """The content type and the body of the form as it is."""
    return FORM, b"".join(map(_encoded, parts)) + END


def _damaged(rng: random.Random, part: Part) -> Part:
    """A part with a damaged file, where it is a file."""
    if part.filename is None:
        return part
    is_lora = part.filename.endswith(".safetensors")
    if not is_lora and rng.random() < 0.3:
        return part
    return replace(part, value=bad_lora(rng) if is_lora else bad_image(rng))


def _with_odd_part(rng: random.Random, parts: list[Part]) -> list[Part]:
    """Change, repeat, drop or add one part."""
    index = rng.randrange(len(parts))
    part = parts[index]
    text = rng.choice(ODD_TEXTS).encode("utf-8", "surrogatepass")
    file_name = rng.choice(ODD_FILE_NAMES)
    odd = rng.choice(
        (
            replace(part, value=text if part.filename is None else part.value, filename=None),
            replace(part, value=text),
            replace(part, name=rng.choice(ODD_PART_NAMES)),
            replace(part, filename=file_name),
            replace(part, value=file_name.encode()) if part.name == "name" else part,
            Part(rng.choice(ODD_PART_NAMES), text, rng.choice((None, file_name))),
        )
    )
    if rng.random() < 0.3:
        return [*parts, *[odd] * rng.choice((1, 1, 4, 1001))]
    if rng.random() < 0.2:
        return parts[:index] + parts[index + 1 :]
    return [*parts[:index], odd, *parts[index + 1 :]]


def _encoded(part: Part) -> bytes:
    head = b'Content-Disposition: form-data; name="' + _quoted(part.name) + b'"'
    if part.filename is not None:
        head += b'; filename="' + _quoted(part.filename) + b'"\r\nContent-Type: image/png'
    return b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + part.value + b"\r\n"


def _quoted(text: str) -> bytes:
    """Some clients escape quotes and line breaks; here they stay."""
    return text.encode("utf-8", "surrogatepass")


def _broken_piece(rng: random.Random) -> bytes:
    head = rng.choice(BROKEN_PART_HEADS)
    return b"--" + BOUNDARY + b"\r\n" + head + b"\r\n" + rng.choice((b"", b"a", b"\xff")) + b"\r\n"


def _joined(rng: random.Random, pieces: list[bytes]) -> tuple[bytes, bytes]:
    """The content type, and the parts between borders, of which some are broken."""
    kind, body = FORM, b"".join(pieces) + END
    if rng.random() < 0.85:
        return kind, body
    return rng.choice(
        (
            (kind, body.removesuffix(END)),
            (kind, body.replace(b"--" + BOUNDARY, b"--other")),
            (kind, body.replace(b"\r\n", b"\n")),
            (kind, body[: rng.randrange(len(body))]),
            (kind, b"preamble\r\n" + body + b"epilogue" * 100),
            (kind, (b"--" + BOUNDARY + b"\r\n") * 3000 + END),
            (kind, rng.randbytes(200)),
            (kind + b'"', body),
            (
                kind + b"; charset=" + rng.choice((b"utf-7", b"x", b"\xff", b"utf-16", b"idna")),
                body,
            ),
            (b"multipart/form-data; boundary=" + b"-" * rng.choice((0, 70, 300)), body),
            (
                b"application/x-www-form-urlencoded",
                rng.choice((body, b"prompt=%ff&a=%", b"&=&" * 900)),
            ),
        )
    )
