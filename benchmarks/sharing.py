"""What methods share: the quickstart with four methods against four cold runs of one method each.

    python -m benchmarks.sharing [--methods local kd dml dp_kd] [--seeds 0]

A study's cost should grow with its federations and not with repeated work: reading, dealing and pre-training happen
once for all methods. Every run has a cache of its own, and starts its own workers.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence


def seconds(methods: Sequence[str], seeds: Sequence[int]) -> float:
    """Of one cold run."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [f"method={list(methods)!r}", f"seed={list(seeds)!r}"]
        command = [sys.executable, "-m", "simulations.cli", "run", "quickstart", "--out", f"{folder}/results"]
        for setting in settings:
            command += ["--set", setting]
        began = time.monotonic()
        subprocess.run(
            command, check=True, stdout=subprocess.DEVNULL, env={**os.environ, "FEDKD_CACHE": f"{folder}/cache"}
        )
        return time.monotonic() - began


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--methods", nargs="+", default=["local", "kd", "dml", "dp_kd"])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    arguments = parser.parse_args()
    alone = {method: seconds([method], arguments.seeds) for method in arguments.methods}
    together = seconds(arguments.methods, arguments.seeds)
    print(", ".join(f"{method} {took:.1f} s" for method, took in alone.items()), "each alone and cold")
    print(f"together {together:.1f} s: {together / sum(alone.values()):.2f} of their sum; {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
