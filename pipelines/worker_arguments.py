"""The command line of a worker process, which the server writes."""

import argparse
from pathlib import Path


def parse_args() -> argparse.Namespace:
    """The worker's options, by the names of the server's settings."""
    parser = argparse.ArgumentParser(prog="pipelines.worker")
    parser.add_argument("--fd", type=int, required=True, help="the socket to the server")
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--offload", default="none")
    parser.add_argument("--forward", default="auto")
    parser.add_argument("--prune-last-block", action="store_true")
    parser.add_argument("--strict-loras", action="store_true")
    parser.add_argument("--safety-checker", help="an image-classification model")
    return parser.parse_args()
