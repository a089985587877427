"""Our step loop and diffusers' own pipeline call, on the published configuration.

    python -m benchmarks.gpu [--write docs/performance.md]

Builds Qwen-Image-Edit-Plus at its published size with random weights, in bf16, on the GPU itself
(57.7 GB), and runs one 1024×1024 edit with one 1024×1024 reference and CFG with
`EditPipeline.edit` and with `QwenImageEditPlusPipeline.__call__`, on the same inputs. On a CPU it
uses a small configuration, which only shows that the script works.
"""

import argparse
import datetime
import platform
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from math import isqrt
from pathlib import Path

import torch

from benchmarks.comparison import CFG_SCALE, LORA_RANK, STAGES, Comparison, compare
from benchmarks.figure import markdown_table
from benchmarks.random_model import PUBLISHED, SMALL, Architecture

TABLE_START = "<!-- gpu table: written by benchmarks/gpu.py -->"
TABLE_END = "<!-- end of the gpu table -->"


def report(comparison: Comparison, architecture: Architecture, device: torch.device) -> str:
    """The facts and the times of the run, as two Markdown tables."""
    return markdown_table(_facts(comparison, architecture, device)) + "\n\n" + _times(comparison)


def _facts(
    comparison: Comparison, architecture: Architecture, device: torch.device
) -> list[tuple[str, str]]:
    counts = comparison.parameters
    size = sum(counts.values()) * comparison.dtype.itemsize / 1e9
    side = isqrt(architecture.spec.output_area)
    depths = f"{architecture.layers} transformer, {architecture.text_layers} text"
    return [
        ("Run", architecture.spec.name + " configuration, random weights"),
        ("Date", datetime.date.today().isoformat()),
        ("Card", _card(device)),
        ("Driver", _driver(device)),
        *((name, version(name)) for name in ("torch", "diffusers", "transformers")),
        ("Layers", f"{depths}, {architecture.vision_layers} vision"),
        ("zero_cond_t", str(architecture.zero_cond_t)),
        *((f"Parameters, {name}", f"{count:,}") for name, count in counts.items()),
        ("Weights", f"{size:.3g} GB, {str(comparison.dtype).removeprefix('torch.')}"),
        ("Edit", f"{side}×{side}, one reference, {comparison.steps} steps, CFG {CFG_SCALE:g}"),
        ("Largest difference of the latents", f"{comparison.latents_difference:.1e} of the range"),
        ("Largest difference of the images", f"{comparison.image_difference} of 255"),
    ]


def _times(comparison: Comparison) -> str:
    ours, theirs = comparison.ours, comparison.stock
    forwards = 2 * comparison.steps
    names = ["Seconds per forward", *(f"{stage.capitalize()}, s" for stage in STAGES), "Total, s"]
    values = [
        [m.seconds["denoise"] / forwards, *(m.seconds[stage] for stage in STAGES), m.total_s]
        for m in (ours, theirs)
    ]
    rows = [
        (name, f"{mine:.4f}", f"{stock_s:.4f}", f"{mine / stock_s:.3f}")
        for name, mine, stock_s in zip(names, *values, strict=True)
    ]
    peaks = [_gigabytes(m.peak_bytes) for m in (ours, theirs)]
    heads = ("", "EditPipeline.edit", "stock __call__", "ratio")
    return markdown_table(
        [heads, *rows, ("Peak device memory, GB", *peaks, ""), _lora_row(comparison)]
    )


def _lora_row(comparison: Comparison) -> tuple[str, str, str, str]:
    """Our forward with LoRAs, relative to without; the target is at most 1.15."""
    seconds = comparison.with_loras.seconds["denoise"]
    ratio = seconds / comparison.ours.seconds["denoise"]
    name = f"Seconds per forward with LoRAs of total rank {LORA_RANK}, ratio to without"
    return name, f"{seconds / (2 * comparison.steps):.4f}", "", f"{ratio:.3f}"


def write_table(path: Path, table: str) -> None:
    """Replace the text between the two markers of the file by the table.

    Raises ValueError when a marker is missing.
    """
    before, start, rest = path.read_text().partition(TABLE_START)
    _, end, after = rest.partition(TABLE_END)
    if not (start and end):
        raise ValueError(f"{path} has no place for the table: {TABLE_START} … {TABLE_END}")
    path.write_text(f"{before}{start}\n{table}\n{end}{after}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Compare, print the tables, and write them to the file that is named."""
    args = _parse(arguments)
    device = torch.device(args.device)
    on_gpu = device.type == "cuda"
    full = PUBLISHED if on_gpu else SMALL
    architecture = replace(
        full.with_depths(args.layers, args.text_layers), zero_cond_t=args.zero_cond_t
    )
    dtype = torch.bfloat16 if on_gpu else torch.float32
    table = report(compare(architecture, device, dtype, args.steps), architecture, device)
    print(table)
    if args.write:
        write_table(args.write, table)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="benchmarks.gpu", description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    default = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=default, help="cpu: the small configuration")
    parser.add_argument("--layers", type=int, help="fewer layers of the transformer than 60")
    parser.add_argument("--text-layers", type=int, help="fewer layers of the text encoder than 28")
    parser.add_argument("--steps", type=int, default=4, help="denoising steps, at least 2")
    parser.add_argument("--zero-cond-t", action=argparse.BooleanOptionalAction, default=True,
                        help="as Qwen-Image-Edit-2511; without it as -2509")  # fmt: skip
    parser.add_argument("--write", type=Path, help="file whose marked table is replaced")
    args = parser.parse_args(arguments)
    if args.write and not args.device.startswith("cuda"):
        parser.error("--write keeps tables of CUDA devices; a CPU runs the small configuration")
    return args


def _card(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()


def _driver(device: torch.device) -> str:
    """The NVIDIA driver's version; torch only knows the version of CUDA."""
    query = shutil.which("nvidia-smi")
    if device.type != "cuda" or query is None:
        return "–"
    options = ["--query-gpu=driver_version", "--format=csv,noheader"]
    answer = subprocess.run([query, *options], capture_output=True, text=True, check=True)
    return answer.stdout.split()[0]


def _gigabytes(count: int) -> str:
    return f"{count / 1e9:.1f}" if count else "–"


if __name__ == "__main__":
    main()
