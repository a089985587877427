"""Downloads: which addresses may be named, and what ends one."""

import gzip
import ipaddress
import socket
from collections.abc import AsyncIterator, Iterator

import pytest

from server.errors import FetchFailed, InvalidRequest, PayloadTooLarge
from server.net.fetch import MAX_REDIRECTS, Fetcher, IpNetwork
from tests.far_side import Answer, FarSide, far_side
from tests.webhook_receiver import webhook_receiver

LOOPBACK = ipaddress.ip_network("127.0.0.0/8")
FIRST_ONLY = ipaddress.ip_network("127.0.0.1/32")


@pytest.fixture(scope="module")
def far() -> Iterator[FarSide]:
    """Listens on every loopback address, so that one server plays several hosts."""
    with far_side("0.0.0.0") as server:
        server.answers["/ok"] = Answer(b"the body")
        yield server


@pytest.fixture
async def fetcher() -> AsyncIterator[Fetcher]:
    """Allowed to reach all of loopback."""
    fetcher = Fetcher([LOOPBACK])
    yield fetcher
    await fetcher.close()


async def read(fetcher: Fetcher, url: str, max_bytes: int = 1000, timeout_s: float = 30) -> bytes:
    return await fetcher.read(url, max_bytes=max_bytes, timeout_s=timeout_s, field="images/0")


async def refusal(fetcher: Fetcher, url: str, timeout_s: float = 30) -> str:
    with pytest.raises(FetchFailed) as caught:
        await read(fetcher, url, timeout_s=timeout_s)
    assert caught.value.field == "images/0"
    return str(caught.value)


async def refusal_with(networks: list[IpNetwork], url: str) -> str:
    fetcher = Fetcher(networks)
    try:
        return await refusal(fetcher, url)
    finally:
        await fetcher.close()


async def test_body_is_read_from_an_allowed_network(fetcher: Fetcher, far: FarSide) -> None:
    assert await read(fetcher, far.url("/ok", "127.0.0.1")) == b"the body"


async def test_name_that_resolves_into_an_allowed_network_is_read(
    fetcher: Fetcher, far: FarSide
) -> None:
    assert await read(fetcher, far.url("/ok", "localhost")) == b"the body"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "2130706433", "0x7f.1"])
async def test_private_address_is_refused_unless_the_operator_allows_it(
    far: FarSide, host: str
) -> None:
    far.requests.clear()
    url = far.url("/ok", host)

    sentence = await refusal_with([], url)

    assert sentence.startswith(f"images/0: {url} is refused: ")
    assert "is not a public address" in sentence
    assert "QWEN_EDIT_ALLOW_NETWORKS" in sentence
    assert far.requests == []


async def test_redirect_within_the_allowed_network_is_followed(
    fetcher: Fetcher, far: FarSide
) -> None:
    far.answers["/moved"] = Answer(status=302, headers={"Location": far.url("/ok", "127.0.0.2")})

    assert await read(fetcher, far.url("/moved", "127.0.0.1")) == b"the body"


async def test_redirect_out_of_the_allowed_network_is_refused(far: FarSide) -> None:
    far.requests.clear()
    far.answers["/away"] = Answer(status=302, headers={"Location": far.url("/ok", "127.0.0.2")})

    sentence = await refusal_with([FIRST_ONLY], far.url("/away", "127.0.0.1"))

    assert "127.0.0.2 is not a public address" in sentence
    assert [path for path, _ in far.requests] == ["/away"]


async def test_redirect_to_a_file_is_refused(fetcher: Fetcher, far: FarSide) -> None:
    far.answers["/file"] = Answer(status=302, headers={"Location": "file:///etc/passwd"})

    assert "cannot be fetched" in await refusal(fetcher, far.url("/file", "127.0.0.1"))


async def test_post_returns_the_status_and_follows_no_redirect(fetcher: Fetcher) -> None:
    with webhook_receiver() as receiver:
        receiver.statuses = [204, 302, 500]
        receiver.location = receiver.url
        statuses = [
            await fetcher.post(receiver.url, b"{}", {"X-A": "b"}, timeout_s=10, field="webhook")
            for _ in range(3)
        ]

        assert statuses == [204, 302, 500]
        assert [(came.headers["X-A"], came.body) for came in receiver.received] == [
            ("b", b"{}")
        ] * 3


async def test_post_to_a_private_address_is_refused() -> None:
    fetcher = Fetcher([])
    with webhook_receiver() as receiver, pytest.raises(FetchFailed, match="not a public address"):
        await fetcher.post(receiver.url, b"{}", {}, timeout_s=10, field="webhook")
    assert receiver.received == []
    await fetcher.close()


async def test_post_fails_after_its_timeout(fetcher: Fetcher) -> None:
    silent = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
    with pytest.raises(FetchFailed, match=r"took longer than 0\.2 seconds"):
        await fetcher.post(url, b"{}", {}, timeout_s=0.2, field="webhook")
    silent.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "http://localhost:1/a?b", "https://[::1]/"])
async def test_address_in_no_allowed_network_is_refused_before_it_is_used(url: str) -> None:
    fetcher = Fetcher([])
    with pytest.raises(InvalidRequest, match="not a public address") as caught:
        await fetcher.check_address(url, "webhook")
    assert caught.value.field == "webhook"
    await fetcher.close()


@pytest.mark.parametrize("url", ["http://127.0.0.1/", "https://name.invalid/", "http://a_b.test/"])
async def test_allowed_or_unresolvable_address_passes_the_check(fetcher: Fetcher, url: str) -> None:
    await fetcher.check_address(url, "webhook")


async def test_redirect_loop_fails(fetcher: Fetcher, far: FarSide) -> None:
    far.requests.clear()
    url = far.url("/circle", "127.0.0.1")
    far.answers["/circle"] = Answer(status=302, headers={"Location": url})

    assert "cannot be fetched" in await refusal(fetcher, url)
    assert len(far.requests) == MAX_REDIRECTS + 1


async def test_body_at_the_size_limit_is_read(fetcher: Fetcher, far: FarSide) -> None:
    far.answers["/exact"] = Answer(bytes(1000))

    assert len(await read(fetcher, far.url("/exact", "127.0.0.1"), max_bytes=1000)) == 1000


async def test_body_beyond_the_size_limit_is_refused_with_the_limit(
    fetcher: Fetcher, far: FarSide
) -> None:
    far.answers["/large"] = Answer(bytes(2**20 + 1))
    url = far.url("/large", "127.0.0.1")

    with pytest.raises(PayloadTooLarge) as caught:
        await read(fetcher, url, max_bytes=2**20)

    assert str(caught.value) == f"images/0: {url} has more than the allowed 1 MiB."
    assert caught.value.field == "images/0"


async def test_endless_body_is_dropped_at_the_size_limit(fetcher: Fetcher, far: FarSide) -> None:
    far.answers["/endless"] = Answer(bytes(65536), chunks_for_ever=True)

    with pytest.raises(PayloadTooLarge):
        await read(fetcher, far.url("/endless", "127.0.0.1"), max_bytes=2**20)


async def test_size_limit_counts_decompressed_bytes(fetcher: Fetcher, far: FarSide) -> None:
    packed = gzip.compress(bytes(100_000))
    far.answers["/packed"] = Answer(packed, headers={"Content-Encoding": "gzip"})
    assert len(packed) < 1000

    with pytest.raises(PayloadTooLarge):
        await read(fetcher, far.url("/packed", "127.0.0.1"), max_bytes=1000)


async def test_silent_server_fails_after_the_timeout(fetcher: Fetcher, far: FarSide) -> None:
    far.answers["/silent"] = Answer(silent=True)
    url = far.url("/silent", "127.0.0.1")

    sentence = await refusal(fetcher, url, timeout_s=0.1)

    assert sentence == f"images/0: {url} took longer than 0.1 seconds."


@pytest.mark.parametrize("status", [404, 500, 204])
async def test_status_other_than_200_is_reported(
    fetcher: Fetcher, far: FarSide, status: int
) -> None:
    far.answers["/status"] = Answer(status=status)
    url = far.url("/status", "127.0.0.1")

    assert await refusal(fetcher, url) == f"images/0: {url} answered {status}."


async def test_unresolvable_name_is_reported(fetcher: Fetcher) -> None:
    url = "http://nowhere.invalid/image.png"

    assert await refusal(fetcher, url) == (
        f"images/0: {url} cannot be fetched: the name nowhere.invalid cannot be resolved"
    )


async def test_closed_port_is_reported(fetcher: Fetcher) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/"

        assert f"{url} cannot be fetched: " in await refusal(fetcher, url)


@pytest.mark.parametrize(
    "url", ["http://", "http:///path", "http://[::1", "http://host:99999/", "http://a\nb/"]
)
async def test_invalid_url_is_reported(fetcher: Fetcher, url: str) -> None:
    assert f"images/0: {url} cannot be fetched: " in await refusal(fetcher, url)


async def test_offline_fetcher_sends_nothing(far: FarSide) -> None:
    far.requests.clear()
    fetcher = Fetcher([LOOPBACK], offline=True)
    url = far.url("/ok", "127.0.0.1")

    sentence = await refusal(fetcher, url)
    await fetcher.close()

    assert sentence == (
        f"images/0: this server runs offline and fetches nothing; {url} was not tried."
    )
    assert far.requests == []


async def test_proxy_of_the_environment_is_ignored(
    far: FarSide, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:1")
    fetcher = Fetcher([LOOPBACK])

    assert await read(fetcher, far.url("/ok", "127.0.0.1")) == b"the body"
    await fetcher.close()


async def test_cookie_of_one_download_is_not_sent_with_the_next(
    fetcher: Fetcher, far: FarSide
) -> None:
    far.answers["/cookie"] = Answer(b"x", headers={"Set-Cookie": "who=somebody; Path=/"})
    await read(fetcher, far.url("/cookie", "127.0.0.1"))
    far.requests.clear()

    await read(fetcher, far.url("/ok", "127.0.0.1"))

    assert "Cookie" not in far.requests[0][1]


async def test_fetcher_sends_its_user_agent(fetcher: Fetcher, far: FarSide) -> None:
    far.requests.clear()
    await read(fetcher, far.url("/ok", "127.0.0.1"))

    assert far.requests[0][1]["User-Agent"] == "qwen-edit-server"
