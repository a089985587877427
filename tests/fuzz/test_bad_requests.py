"""No bad request gets a 500, a path or a traceback; memory and open files stay as they are."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fuzz.checks import Usage
from tests.fuzz.fuzzer import Fuzzer
from tests.live_server import live_server, until
from tests.server.contracts.owners import KEYS, ROOT

# The share in `make test`; `make fuzz` sends many more. Half of them go to a server with keys.
REQUESTS = int(os.environ.get("QWEN_FUZZ_REQUESTS", "500"))
SEED = int(os.environ.get("QWEN_FUZZ_SEED", "1"))
FIRST = int(os.environ.get("QWEN_FUZZ_FIRST", "0"))
# From the end of the first tenth to the end. The allocator of the server keeps freed blocks:
# 10,000 requests take 20 MiB of it, most of them in the first half.
MAX_GROWTH_MIB = 40.0
MAX_DECODER_GROWTH_MIB = 16.0
MORE_FILES = 4
# Fewer say that the requests are so bad that they reach little of the server.
MIN_ACCEPTED = 0.05
SHORT_TIMES = {"SYNC_TIMEOUT_S": 2, "FETCH_TIMEOUT_S": 2, "LORA_TIMEOUT_S": 2}


@pytest.fixture(scope="module", params=[ROOT, None], ids=["keys", "no keys"])
def fuzzer(
    request: pytest.FixtureRequest, tiny_model: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Fuzzer]:
    keys = {"API_KEYS": KEYS} if request.param else {}
    folder = tmp_path_factory.mktemp("fuzz")
    with live_server(tiny_model, folder, **SHORT_TIMES, **keys) as server:
        (server.weights_dir / "loras" / "folder.safetensors").mkdir()
        yield Fuzzer(server, SEED, request.param)


def test_bad_requests_leave_no_trace(fuzzer: Fuzzer) -> None:
    count, start = max(1, REQUESTS // 2), time.monotonic()
    # also starts a decoder, which then counts from the start
    fuzzer.send_good_ones()
    for number in range(count):
        fuzzer.send(FIRST + number)
        if number == count // 10:
            before = Usage.of(fuzzer.server)
        if fuzzer.is_hopeless:
            break
    fuzzer.assert_no_failures()
    fuzzer.send_good_ones()
    fuzzer.clean_up()
    fuzzer.assert_no_failures()

    after = Usage.of(fuzzer.server)
    print(f"\n{count} requests in {time.monotonic() - start:.0f} s, {before}, then {after}")
    print(f"responses by status: {dict(sorted(fuzzer.statuses.items()))}")
    assert after.server_mib - before.server_mib <= MAX_GROWTH_MIB
    assert after.decoder_mib - before.decoder_mib <= MAX_DECODER_GROWTH_MIB
    until(lambda: Usage.of(fuzzer.server).files <= before.files + MORE_FILES, timeout_s=60)
    if count >= 100:
        accepted = sum(n for status, n in fuzzer.statuses.items() if 200 <= status < 300)
        assert accepted >= count * MIN_ACCEPTED
