"""Polls jobs at a fixed rate, in a process of its own, and prints the seconds that each took.

`python -m tests.soak.poller HOST PORT POLLS_PER_S SECONDS`, with job ids on standard input. The
client is as small as it can be: one with all comforts took more time than the server.
"""

import asyncio
import json
import sys

CONNECTIONS = 20


async def poll(host: str, port: int, ids: list[str], per_s: int, seconds: int) -> list[float]:
    """Return the seconds of each poll, counted from when it was due."""
    clock = asyncio.get_running_loop().time
    due: asyncio.Queue[tuple[float, str]] = asyncio.Queue()
    took: list[float] = []

    async def work() -> None:
        reader, writer = await asyncio.open_connection(host, port)
        while True:
            since, job_id = await due.get()
            writer.write(f"GET /v1/edits/{job_id} HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).lower()
            assert head.startswith(b"http/1.1 200 "), head
            length = head.partition(b"content-length: ")[2].partition(b"\r\n")[0]
            await reader.readexactly(int(length))
            took.append(clock() - since)
            due.task_done()

    workers = [asyncio.create_task(work()) for _ in range(CONNECTIONS)]
    began = clock()
    for number in range(per_s * seconds):
        at = began + number / per_s
        await asyncio.sleep(at - clock())
        due.put_nowait((at, ids[number % len(ids)]))
    ended = asyncio.create_task(due.join())
    await asyncio.wait([ended, *workers], return_when=asyncio.FIRST_COMPLETED)
    for worker in workers:
        # an error of one, if there is one
        assert not worker.done() or worker.result() is None
        worker.cancel()
    return took


if __name__ == "__main__":
    host, port, per_s, seconds = sys.argv[1:]
    found = poll(host, int(port), sys.stdin.read().split(), int(per_s), int(seconds))
    print(json.dumps(asyncio.run(found)))
