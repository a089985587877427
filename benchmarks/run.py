"""`make bench`: the benchmarks that need no GPU, with their targets, in one table.

    python -m benchmarks.run [http] [polling] [lora] [encode] [forward] [kinds]

Exits with 1 when a target is missed. For the GPU there is `benchmarks/gpu.py`.
"""

import argparse
import datetime
import os
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from benchmarks import encode, forward, lora, lora_kinds, overhead
from benchmarks.figure import Figure, figure_table
from tests.live_server import LiveServer, live_server

OVER_A_SERVER: dict[str, Callable[[LiveServer], list[Figure]]] = {
    "http": overhead.http_overhead,
    "polling": overhead.polling,
}
IN_THIS_PROCESS: dict[str, Callable[[], list[Figure]]] = {
    "lora": lora.lora_switching,
    "encode": encode.encoding,
    "forward": forward.forwards,
    "kinds": lora_kinds.lora_kinds,
}
BENCHMARKS = (*OVER_A_SERVER, *IN_THIS_PROCESS)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks that are named, or all. Return 1 when a target is missed."""
    names = _parse(arguments)
    print(
        f"{datetime.date.today()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f} at start"
    )
    figures = _run_over_a_server([name for name in names if name in OVER_A_SERVER])
    for name in names:
        if name in IN_THIS_PROCESS:
            print(f"{name} …", flush=True)
            figures += IN_THIS_PROCESS[name]()
    print("\n" + figure_table(figures))
    return 0 if all(figure.is_met for figure in figures) else 1


def _run_over_a_server(names: Sequence[str]) -> list[Figure]:
    """Benchmarks against one live server, whose worker has one thread, as the targets assume."""
    if not names:
        return []
    figures: list[Figure] = []
    with (
        tempfile.TemporaryDirectory(prefix="qwen-edit-bench-") as folder,
        live_server(Path("demo"), Path(folder)) as server,
    ):
        for name in names:
            print(f"{name} …", flush=True)
            figures += OVER_A_SERVER[name](server)
    return figures


def _parse(arguments: Sequence[str] | None) -> list[str]:
    parser = argparse.ArgumentParser(prog="benchmarks.run", description=__doc__)
    parser.add_argument("name", nargs="*", help=f"of {', '.join(BENCHMARKS)}; all by default")
    names: list[str] = parser.parse_args(arguments).name
    if unknown := set(names) - set(BENCHMARKS):
        parser.error(
            f"no benchmark {', '.join(sorted(unknown))}; there are {', '.join(BENCHMARKS)}"
        )
    return names or list(BENCHMARKS)


if __name__ == "__main__":
    sys.exit(main())
