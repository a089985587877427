"""Memory and time that a decoder and its server spend on bombs, read from /proc."""

import contextlib
import os
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from server.errors import InvalidImage
from server.media.decoder_pool import DecoderPool
from tests.conftest import encoded, gradient
from tests.server.media.bombs import LARGE, MEDIUM

SAMPLE_INTERVAL_S = 0.003
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass
class Cost:
    """Memory above rest of this process and its decoders, and the decoders' seconds of a core."""

    peak_mb: float = 0
    seconds: float = 0
    cpu_s: float = 0


def memory_mb(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            resident_pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
            total += resident_pages * os.sysconf("SC_PAGE_SIZE")
    return total / 1e6


def cpu_s(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
    return total / TICKS_PER_S


@contextlib.contextmanager
def measured(pool: DecoderPool) -> Iterator[Cost]:
    """Sample while the block runs."""
    pids = [os.getpid(), *pool.pids]
    rest_mb, rest_cpu_s, start = memory_mb(pids), cpu_s(pids[1:]), time.monotonic()
    cost, over = Cost(), threading.Event()

    def sample() -> None:
        while not over.wait(SAMPLE_INTERVAL_S):
            cost.peak_mb = max(cost.peak_mb, memory_mb(pids) - rest_mb)
            cost.cpu_s = max(cost.cpu_s, cpu_s(pids[1:]) - rest_cpu_s)

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield cost
    finally:
        cost.seconds = time.monotonic() - start
        over.set()
        thread.join()


async def cost_of(
    pool: DecoderPool, data: bytes, path: Path, expected: str | None, name: str
) -> Cost:
    """Decode a bomb, with a decoder that has already started, and check the result."""
    await pool.check(encoded(gradient()), "warm-up")
    with measured(pool) as cost:
        if expected is None:
            await pool.write_png(data, path, "images/0")
        else:
            with pytest.raises(InvalidImage) as caught:
                await pool.write_png(data, path, "images/0")
    if expected is not None:
        assert str(caught.value).startswith(f"images/0 {expected}")
    result = expected or "accepted"
    print(f"BOMB | {name} | {cost.seconds:.2f} | {cost.peak_mb:.0f} | {result} | {len(data)} bytes")
    return cost


@pytest.mark.parametrize(
    ("name", "make", "expected"), LARGE, ids=[name.replace(" ", "-") for name, *_ in LARGE]
)
async def test_bomb_takes_at_most_512_mb_and_10_s(
    decoders: DecoderPool,
    tmp_path: Path,
    name: str,
    make: Callable[[], bytes],
    expected: str | None,
) -> None:
    cost = await cost_of(decoders, make(), tmp_path / "0.png", expected, name)

    assert cost.peak_mb < 512
    assert cost.seconds < 10


@pytest.mark.parametrize(
    ("name", "make", "expected"), MEDIUM, ids=[name.replace(" ", "-") for name, *_ in MEDIUM]
)
async def test_image_of_16_megapixels_takes_at_most_200_mb_and_2_s(
    decoders: DecoderPool,
    tmp_path: Path,
    name: str,
    make: Callable[[], bytes],
    expected: str | None,
) -> None:
    cost = await cost_of(decoders, make(), tmp_path / "0.png", expected, name)

    assert cost.peak_mb < 200
    # of a core: other tests may run on the same cores
    assert cost.cpu_s < 2
