"""Decoder processes: what they decode, and what ends them."""

import asyncio
import os
import signal
import sys
from pathlib import Path

import PIL.Image
import pytest

from server.errors import InvalidImage, Unavailable
from server.media.decoder_pool import DecoderPool
from server.metrics import Metrics
from tests.conftest import encoded, gradient
from tests.live_server import is_alive, until

IMAGE = encoded(gradient())
# Reads a request and does what the test wants, as a damaged or hostile decoder would.
FAKE = """
import os, signal, socket, struct, sys
connection = socket.socket(fileno=0)
stream = connection.makefile("rwb")
def frame(kind, payload=b""):
    stream.write(struct.pack(">BI", kind, len(payload)) + payload)
    stream.flush()
while head := stream.read(4):
    stream.read(struct.unpack(">I", head)[0])
    exec(sys.argv[1])
"""
HANG = "signal.pause()"


def fake(action: str, *, count: int = 1, timeout_s: float = 60) -> DecoderPool:
    command = (sys.executable, "-S", "-c", FAKE, action)
    return DecoderPool(count=count, timeout_s=timeout_s, command=command)


async def refusal(pool: DecoderPool, data: bytes = IMAGE) -> str:
    with pytest.raises(InvalidImage) as caught:
        await pool.check(data, "images/0")
    assert caught.value.field == "images/0"
    assert caught.value.code == "invalid_picture"
    return str(caught.value)


async def pid_of_busy(pool: DecoderPool) -> int:
    """The decoder of a task that has just been created."""
    await asyncio.sleep(0)
    (pid,) = pool.pids
    return pid


async def test_image_is_written_as_rgb_png_without_metadata(
    decoders: DecoderPool, tmp_path: Path
) -> None:
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    image = gradient(1000, 2000)

    await decoders.write_png(encoded(image, exif=exif), tmp_path / "0.png", "images/0")

    with PIL.Image.open(tmp_path / "0.png") as written:
        upright = image.transpose(PIL.Image.Transpose.ROTATE_270)
        assert (written.format, written.mode, written.info) == ("PNG", "RGB", {})
        assert (written.size, written.tobytes()) == (upright.size, upright.tobytes())


async def test_decoder_is_reused_after_a_refused_image(decoders: DecoderPool) -> None:
    await decoders.check(IMAGE, "images/0")
    pids = decoders.pids

    message = await refusal(decoders, b"no image")

    assert message.startswith("images/0 is not an image that can be read (8 bytes)")
    assert decoders.pids == pids
    assert len(pids) == 1


async def test_images_are_decoded_side_by_side_up_to_the_count(decoders: DecoderPool) -> None:
    await asyncio.gather(*(decoders.check(IMAGE, "images/0") for _ in range(5)))

    assert len(decoders.pids) == 2


async def test_decoder_is_killed_and_replaced_at_the_deadline(tmp_path: Path) -> None:
    pool = fake("signal.pause()", timeout_s=0.01)

    deciding = asyncio.create_task(refusal(pool))
    pid = await pid_of_busy(pool)

    assert await deciding == "images/0 takes more than 0.01 s to decode."
    assert not is_alive(pid)
    assert pool.pids == []


async def test_crash_of_the_decoder_refuses_the_image() -> None:
    pool = fake("os.kill(os.getpid(), signal.SIGSEGV)")

    assert await refusal(pool) == "images/0 is damaged: the decoder crashed on it."
    assert pool.pids == []


@pytest.mark.parametrize(
    "action",
    [
        "frame(2, bytes(3))",
        "frame(1, struct.pack('>II', 9000, 9000))",
        "frame(1, struct.pack('>II', 2, 2)); frame(2, bytes(13))",
        "frame(1, struct.pack('>II', 2, 2)); frame(2, bytes(18))",
        "frame(1, struct.pack('>II', 2, 2)); frame(2)",
        "frame(1, struct.pack('>II', 2, 2)); frame(2, bytes(6)); frame(3)",
        "frame(1, bytes(9 * 2**20))",
        "frame(1, b'short')",
        "frame(99)",
    ],
    ids=[
        "rows before the size", "too many pixels", "part of a row", "too many rows", "no row",
        "too few rows", "long frame", "short size", "unknown frame",
    ],
)  # fmt: skip
async def test_decoder_that_breaks_the_protocol_is_replaced(action: str) -> None:
    pool = fake(action)

    assert await refusal(pool) == "images/0 is damaged: the decoder crashed on it."
    assert pool.pids == []


async def test_file_that_cannot_be_written_is_no_fault_of_the_image(
    decoders: DecoderPool, tmp_path: Path
) -> None:
    with pytest.raises(OSError, match="No such file"):
        await decoders.write_png(IMAGE, tmp_path / "missing" / "0.png", "images/0")

    assert decoders.pids == []
    await decoders.check(IMAGE, "images/0")


async def test_message_of_a_decoder_is_short_and_on_one_line() -> None:
    pool = fake("frame(4, b'is bad\\n' + b'x' * 10**6)")

    message = await refusal(pool)

    assert message.startswith("images/0 is bad?xxx")
    assert len(message) < 600
    pool.close()


async def test_decoder_out_of_memory_is_replaced() -> None:
    pool = fake("frame(5)")

    assert "takes more memory to decode than one image may use" in await refusal(pool)
    assert pool.pids == []


@pytest.mark.parametrize(
    ("action", "reason"),
    [("frame(5)", "memory"), ("os._exit(1)", "crash"), ("signal.pause()", "time")],
)
async def test_decoder_that_an_image_ends_is_counted(action: str, reason: str) -> None:
    metrics, command = Metrics(), (sys.executable, "-S", "-c", FAKE, action)
    # the deadline alone can end the one that hangs
    timeout_s = 0.01 if reason == "time" else 60
    await refusal(DecoderPool(timeout_s=timeout_s, command=command, metrics=metrics))

    counted = f'qwen_edit_decode_kills_total{{reason="{reason}"}} 1.0'
    assert counted in metrics.render().decode()


async def test_cancelled_caller_frees_its_decoder() -> None:
    pool = fake(HANG)
    waiting = asyncio.create_task(pool.check(IMAGE, "images/0"))
    pid = await pid_of_busy(pool)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert not is_alive(pid)
    assert pool.pids == []


async def test_cancelled_caller_in_the_queue_leaves_the_running_decode() -> None:
    pool = fake(HANG)
    running = asyncio.create_task(pool.check(IMAGE, "images/0"))
    pid = await pid_of_busy(pool)
    waiting = asyncio.create_task(pool.check(IMAGE, "images/1"))
    await asyncio.sleep(0)

    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting

    assert is_alive(pid)
    pool.close()
    with pytest.raises(Unavailable):
        await running


async def test_close_ends_running_and_waiting_decodes() -> None:
    pool = fake(HANG)
    decodes = [asyncio.create_task(pool.check(IMAGE, f"images/{index}")) for index in range(3)]
    pid = await pid_of_busy(pool)

    pool.close()
    results = await asyncio.gather(*decodes, return_exceptions=True)

    assert [type(result) for result in results] == [Unavailable] * 3
    assert not is_alive(pid)


async def test_closed_pool_starts_no_decoder(decoders: DecoderPool) -> None:
    decoders.close()

    with pytest.raises(Unavailable):
        await decoders.check(IMAGE, "images/0")
    assert decoders.pids == []


async def test_dead_idle_decoder_is_replaced_without_refusing_an_image(
    decoders: DecoderPool,
) -> None:
    await decoders.check(IMAGE, "images/0")
    (pid,) = decoders.pids
    os.kill(pid, signal.SIGKILL)
    until(lambda: not is_alive(pid))

    await decoders.check(IMAGE, "images/0")

    assert pid not in decoders.pids


async def test_decoder_gets_no_setting_of_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QWEN_EDIT_API_KEYS", "secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    pool = fake("frame(4, repr([n for n, v in os.environ.items() if v == 'secret']).encode())")

    assert await refusal(pool) == "images/0 []"
    pool.close()
