"""Train and evaluate the demo model: `python -m demo_model train`, `evaluate`."""

import argparse
import logging
import os
from pathlib import Path

DEMO = Path("weights/demo")
LORAS = Path("weights/loras")


def main() -> None:
    """Run the command line."""
    args = _parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    # Imported here, so that --help and wrong options answer at once.
    import torch

    from demo_model import recipe, report

    torch.set_num_threads(args.threads)
    if args.command == "train":
        recipe.make_model(args.model)
        recipe.make_loras(args.model, args.loras)
    elif args.command == "train-loras":
        recipe.make_loras(args.model, args.loras)
    else:
        report.write_card(args.model, args.loras, per_task=args.per_task)


def _parse_args() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo_model", description=__doc__)
    parser.add_argument("command", choices=["train", "train-loras", "evaluate"])
    parser.add_argument("--model", type=Path, default=DEMO, help=f"the model's folder [{DEMO}]")
    parser.add_argument("--loras", type=Path, default=LORAS, help=f"the LoRAs' folder [{LORAS}]")
    parser.add_argument("--per-task", type=int, default=30, help="edits of each task [30]")
    parser.add_argument(
        "--threads", type=int, default=os.cpu_count() or 1, help="processor threads [all]"
    )
    return parser.parse_args()


if __name__ == "__main__":
    main()
