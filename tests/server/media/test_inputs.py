"""Image references: how a request may carry an image, and what is left when it must not."""

import base64
import io
import urllib.parse
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import PIL.Image
import pytest

from server.errors import FetchFailed, InvalidImage, NotFound, PayloadTooLarge
from server.limits import MAX_IMAGE_BYTES
from server.media.decoder_pool import DecoderPool
from server.media.inputs import InputStore, decode_text, is_inline, is_url
from server.net.fetch import Fetcher
from server.settings import Settings
from tests.conftest import as_base64, encoded, gradient
from tests.far_side import Answer, FarSide, far_side

IMAGE = encoded(gradient())
LIMITS = MAX_IMAGE_BYTES
# In base64 these bytes need every sign in which the two alphabets differ, and padding.
AWKWARD = bytes(range(256)) + b"\xfb\xef\xbe\xff"
PLAIN = base64.b64encode(AWKWARD).decode()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "inputs"


@pytest.fixture
async def store(folder: Path, tmp_path: Path, decoders: DecoderPool) -> AsyncIterator[InputStore]:
    fetcher = Fetcher(Settings(allow_networks="127.0.0.0/8").allow_networks)
    own = tmp_path / "own.png"
    own.write_bytes(IMAGE)
    store = InputStore(
        folder,
        fetcher,
        decoders,
        own_file=lambda url: own if url.endswith("/outputs/own.png") else None,
        fetch_timeout_s=30,
    )
    yield store
    store.close()
    await fetcher.close()


@pytest.fixture
def far() -> Iterator[FarSide]:
    with far_side() as server:
        yield server


def pixels(data: bytes) -> bytes:
    """The pixels of an image as a job's worker gets it."""
    with PIL.Image.open(io.BytesIO(data)) as image:
        assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
        return image.tobytes()


def lines(text: str) -> str:
    return "\r\n".join(text[start : start + 76] for start in range(0, len(text), 76))


@pytest.mark.parametrize(
    "text",
    [
        f"data:image/png;base64,{PLAIN}",
        f"DATA:IMAGE/PNG;BASE64,{PLAIN}",
        f"data:;base64,{PLAIN}",
        f"data:image/png;charset=utf-8;base64,{PLAIN}",
        f"data:text/html;base64,{PLAIN}",
        f"  data:image/png;base64,{PLAIN}\n",
        f"data:image/png;base64,{urllib.parse.quote(PLAIN, safe='')}",
        f"data:image/png;base64,{base64.urlsafe_b64encode(AWKWARD).decode()}",
        f"data:image/png;base64,{PLAIN.rstrip('=')}",
        f"data:image/png;base64,{lines(PLAIN)}",
        f"data:image/png,{urllib.parse.quote(AWKWARD)}",
        PLAIN,
        PLAIN.rstrip("="),
        lines(PLAIN),
        base64.urlsafe_b64encode(AWKWARD).decode(),
    ],
    ids=[
        "data URI", "upper case", "no type", "parameters", "a type that is no image",
        "white space around", "percent signs in base64", "urlsafe alphabet", "no padding",
        "line breaks", "percent-encoded", "naked", "naked without padding", "naked with lines",
        "naked urlsafe",
    ],
)  # fmt: skip
def test_data_uri_and_base64_are_decoded(text: str) -> None:
    assert decode_text(text) == AWKWARD


@pytest.mark.parametrize("text", ["data:image/png;base64", "data:"])
def test_data_uri_without_a_comma_is_refused(text: str) -> None:
    with pytest.raises(InvalidImage, match=r"^images/0 is a data URI without data\.$"):
        decode_text(text, field="images/0")


@pytest.mark.parametrize(
    "text", ["file:///etc/passwd", "häuschen", "A", "AAAA=AAA", "data:image/png;base64,A$A"]
)
def test_other_text_is_refused_with_the_allowed_forms(text: str) -> None:
    with pytest.raises(InvalidImage) as caught:
        decode_text(text, field="images/0")

    assert str(caught.value) == (
        f"images/0 must be an http(s) URL, a data URI or base64, got {text!r}."
    )
    assert caught.value.field == "images/0"


def test_long_text_is_shortened_in_the_message() -> None:
    with pytest.raises(InvalidImage) as caught:
        decode_text("$" * 100_000)

    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("head", ["data:image/png;base64,", "data:image/png,", ""])
def test_text_at_the_size_limit_is_decoded(head: str) -> None:
    data = b"abc" * 100
    payload = data.decode() if head.endswith("png,") else as_base64(data)

    assert decode_text(head + payload, 300) == data


@pytest.mark.parametrize("head", ["data:image/png;base64,", "data:image/png,", ""])
def test_text_beyond_the_size_limit_is_refused(head: str) -> None:
    with pytest.raises(PayloadTooLarge, match=r"images/0 has .* MiB; at most"):
        decode_text(head + "a" * 4000, 300, "images/0")


def test_size_limit_is_checked_before_anything_is_decoded() -> None:
    # decoded, it would be refused for what it holds
    with pytest.raises(PayloadTooLarge):
        decode_text("data:image/png;base64," + "$" * 4000, 300)


@pytest.mark.parametrize("text", ["http://host/a.png", "HTTPS://host/a.png", " https://host/a "])
def test_http_address_is_a_url(text: str) -> None:
    assert is_url(text)
    assert not is_inline(text)


@pytest.mark.parametrize("text", ["ftp://host/a.png", "data:image/png;base64,AA", "httpAAAA", ""])
def test_other_text_is_no_url(text: str) -> None:
    assert not is_url(text)


@pytest.mark.parametrize(
    "text", ["data:image/png;base64,AA==", "DATA:,x", PLAIN, f"\n{lines(PLAIN)}", "A" * 5_000_000]
)
def test_data_uri_and_base64_are_inline(text: str) -> None:
    assert is_inline(text)


@pytest.mark.parametrize("text", ["image.png", "./image", "", "C:\\image"])
def test_path_is_not_inline(text: str) -> None:
    assert not is_inline(text)


async def test_store_inline_stores_images_and_returns_urls(
    store: InputStore,
) -> None:
    images = [as_base64(IMAGE), " https://host/a.png ", IMAGE]

    assert await store.store_inline("job", images, LIMITS) == (None, "https://host/a.png", None)


async def test_offline_server_refuses_a_url_at_once(folder: Path, decoders: DecoderPool) -> None:
    fetcher = Fetcher([], offline=True)
    store = InputStore(folder, fetcher, decoders, own_file=lambda _: None, fetch_timeout_s=30)

    with pytest.raises(FetchFailed, match=r"^images/1: this server runs offline"):
        await store.store_inline("job", [IMAGE, "https://host/a.png"], LIMITS)
    store.close()
    await fetcher.close()

    assert store.job_ids() == []


async def test_stored_images_are_read_in_their_order(store: InputStore) -> None:
    other = encoded(gradient(shift=50))
    await store.store_inline("job", [IMAGE, as_base64(other)], LIMITS)

    assert [pixels(data) for data in await store.read("job", 2)] == [
        gradient().tobytes(),
        gradient(shift=50).tobytes(),
    ]


@pytest.mark.parametrize(
    ("bad", "error"),
    [
        ("no image!", InvalidImage),
        (b"no image!", InvalidImage),
        (as_base64(b"no image!"), InvalidImage),
        (bytes(21 * 2**20), PayloadTooLarge),
        ("A" * (28 * 2**20), PayloadTooLarge),
    ],
    ids=["text", "bytes", "base64", "too many bytes", "too much base64"],
)
async def test_store_inline_leaves_nothing_when_one_image_is_refused(
    store: InputStore, folder: Path, bad: str | bytes, error: type[Exception]
) -> None:
    with pytest.raises(error, match=r"^images/1 "):
        await store.store_inline("job", [IMAGE, bad, IMAGE], LIMITS)

    assert store.job_ids() == []
    assert not (folder / "job").exists()


async def test_delete_removes_the_images_of_one_job(store: InputStore) -> None:
    await store.store_inline("one", [IMAGE], LIMITS)
    await store.store_inline("two", [IMAGE], LIMITS)

    await store.delete("one")

    assert store.job_ids() == ["two"]


async def test_delete_of_an_unknown_job_does_nothing(store: InputStore) -> None:
    await store.delete("never seen")

    assert store.job_ids() == []


async def test_read_names_the_job_when_its_image_is_gone(store: InputStore) -> None:
    with pytest.raises(NotFound, match="An input image of job gone is gone"):
        await store.read("gone", 1)


async def test_fetch_stores_the_image_at_a_url(store: InputStore, far: FarSide) -> None:
    far.answers["/a.jpg"] = Answer(encoded(gradient(), "PNG"))

    await store.fetch("job", 0, far.url("/a.jpg"), LIMITS)

    (stored,) = await store.read("job", 1)
    assert pixels(stored) == gradient().tobytes()


async def test_fetch_refuses_a_file_of_this_servers_own_over_the_limit(store: InputStore) -> None:
    with pytest.raises(PayloadTooLarge, match="images/0 has"):
        await store.fetch("job", 0, "https://nowhere.invalid/outputs/own.png", len(IMAGE) - 1)


async def test_fetch_reads_a_file_of_this_servers_own_from_disk(store: InputStore) -> None:
    await store.fetch("job", 0, "https://nowhere.invalid/outputs/own.png", LIMITS)

    (stored,) = await store.read("job", 1)
    assert pixels(stored) == gradient().tobytes()


async def test_fetch_refuses_an_image_over_the_limit(store: InputStore, far: FarSide) -> None:
    far.answers["/a.png"] = Answer(IMAGE)

    with pytest.raises(PayloadTooLarge, match=r"^images/2: "):
        await store.fetch("job", 2, far.url("/a.png"), 10)


async def test_fetch_refuses_unreadable_data(store: InputStore, far: FarSide) -> None:
    far.answers["/a.png"] = Answer(b"<html>")

    with pytest.raises(InvalidImage, match=r"^images/1 is not an image"):
        await store.fetch("job", 1, far.url("/a.png"), LIMITS)


async def test_fetch_names_the_field_when_nothing_answers(store: InputStore, far: FarSide) -> None:
    with pytest.raises(FetchFailed, match=r"^images/1: .*/none\.png answered 404\.$"):
        await store.fetch("job", 1, far.url("/none.png"), LIMITS)
