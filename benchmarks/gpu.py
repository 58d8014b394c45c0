"""What a GPU changes: numbers that agree with the CPU's, and how fast it is. It needs no network.

    python -m benchmarks.gpu [--bundle gpu-bundle] [--device cuda|cpu] [--quick]

`--bundle` is the folder that `make gpu-bundle` has filled, for a machine with nothing but torch and torchvision. The
output is the Markdown table for docs/performance.md. Without CUDA it says so, and `--device cpu --quick` runs the same
code small on the CPU. The last part of each line is the spread over repeats.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

PARTS = ("agreement", "training", "sharing", "evaluation", "augmentation")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="folder made by `make gpu-bundle`")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="small: to see that it runs")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    return parser.parse_args()


def main() -> int:
    """Measure and print."""
    asked = arguments()
    if asked.bundle is not None:
        from benchmarks.bundled import enter

        enter(asked.bundle)
    import torch

    if asked.device == "cuda" and not torch.cuda.is_available():
        print(
            "not run: torch sees no CUDA device; `--device cpu --quick` runs the same code on the CPU", file=sys.stderr
        )
        return 2
    from benchmarks.gpu_parts import Setting, agreement, augmentation, evaluation, sharing, training

    setting = Setting(torch.device(asked.device), asked.quick)
    made: dict[str, Callable[[Setting], Iterator[str]]] = {
        "agreement": agreement,
        "training": training,
        "sharing": sharing,
        "evaluation": evaluation,
        "augmentation": augmentation,
    }
    print(f"{setting.name()}, torch {torch.__version__}, Python {sys.version.split()[0]}\n")
    print("| what | measured |\n|---|---|")
    for part in asked.parts:
        for line in made[part](setting):
            print(f"| {line} |", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
