"""Hosts that send a byte now and then."""

import ipaddress
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from server.errors import FetchFailed
from server.net import least_rate
from server.net.download import Download
from server.net.fetch import Fetcher
from tests.far_side import Answer, FarSide, far_side

SLOW = r"sent \d+ bytes in \d+ seconds, and at least 40 KiB are required"


@pytest.fixture
def host() -> Iterator[FarSide]:
    with far_side() as host:
        host.answers["/slow"] = Answer(bytes(100_000), trickle_s=0.02)
        host.answers["/quick"] = Answer(bytes(3_000_000))
        yield host


@pytest.fixture
async def fetcher(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Fetcher]:
    monkeypatch.setattr(least_rate, "WINDOW_S", 0.2)
    fetcher = Fetcher([ipaddress.ip_network("127.0.0.0/8")])
    yield fetcher
    await fetcher.close()


async def test_image_from_a_slow_host_fails_before_its_time_limit(
    fetcher: Fetcher, host: FarSide
) -> None:
    with pytest.raises(FetchFailed, match=SLOW):
        await fetcher.read(host.url("/slow"), max_bytes=10**6, timeout_s=600, field="images/0")


async def test_lora_from_a_slow_host_fails_and_is_not_retried(
    fetcher: Fetcher, host: FarSide, tmp_path: Path
) -> None:
    wanted = Download(host.url("/slow"), tmp_path / "part", 10**6)

    with pytest.raises(FetchFailed, match=SLOW):
        await fetcher.download(wanted, timeout_s=600, field="loras/0/path")

    assert len(host.requests) == 1


async def test_quick_host_is_not_measured_against_its_last_bytes(
    fetcher: Fetcher, host: FarSide
) -> None:
    body = await fetcher.read(host.url("/quick"), max_bytes=10**7, timeout_s=600, field="images/0")

    assert len(body) == 3_000_000
