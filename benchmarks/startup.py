"""What the seconds before the first federation consist of, and how they differ from another checkout's.

    python -m benchmarks.startup [--tree DIR] [--repeats 3]

Each part is measured in a process of its own: imports of the driver, Ray's start as it comes and as fedkd starts it,
imports of a worker; then the whole command, with one federation that does next to nothing. `--tree` runs that command
in another checkout too, interleaved.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).parent.parent
RAY = """
import logging, time
from contextlib import nullcontext
from simulations.engine.starting import lean, prepare_environment
from simulations.engine.workers import Worker
from fedkd.flower.apps import client_app
from simulations.data import load_holdings
from simulations.engine.travelling import Probe
prepare_environment()
import ray
began = time.perf_counter()
with {how}():
    ray.init("local", include_dashboard=False, log_to_driver=False, logging_level=logging.ERROR)
print("ray", time.perf_counter() - began)
began = time.perf_counter()
workers = [ray.remote(Worker).options(num_cpus=1).remote(client_app(load_holdings), False, None) for _ in range(2)]
ray.get([worker.greet.remote(Probe()) for worker in workers])
print("workers", time.perf_counter() - began)
began = time.perf_counter()
ray.shutdown()
print("end", time.perf_counter() - began)
"""
IMPORTS = "import time; t = time.perf_counter(); {what}; print('imports', time.perf_counter() - t)"
STUDY = (
    "run", "quickstart", "--set", 'method=["local"]', "--set", 'partition=["iid"]', "--set", "seed=[0]",
    "--set", "rounds=0", "--set", "clients=2", "--set", "start=random",
)  # fmt: skip


def parts(script: str) -> dict[str, float]:
    """Seconds that a script prints, by name."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=HERE, check=True)
    return {name: float(seconds) for name, seconds in (line.split() for line in done.stdout.splitlines())}


def command(tree: Path) -> float:
    """Seconds of the whole command in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        subprocess.run(
            [sys.executable, "-m", "simulations.cli", *STUDY, "--out", f"{folder}/out"],
            cwd=tree, env=os.environ | {"PYTHONPATH": str(tree)}, capture_output=True, check=True,
        )  # fmt: skip
        return time.perf_counter() - began


def shown(name: str, values: list[float]) -> None:
    """Print a line: median, smallest and largest."""
    print(f"{name:42} {statistics.median(values):6.2f} s ({min(values):.2f} to {max(values):.2f})", flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tree", type=Path, default=None)
    parser.add_argument("--repeats", type=int, default=3)
    asked = parser.parse_args()
    times: dict[str, list[float]] = {}
    for _ in range(asked.repeats):
        found = {
            "driver: imports to read a recipe": parts(IMPORTS.format(what="import simulations.study"))["imports"],
            "  of these PyTorch": parts(IMPORTS.format(what="import torch"))["imports"],
        }
        for how, name in (("nullcontext", "as it comes"), ("lean", "as fedkd starts it")):
            ray = parts(RAY.format(how=how))
            found |= {f"Ray's start, {name}": ray["ray"], f"Ray's end, {name}": ray["end"]}
            found["two workers: processes and imports"] = ray["workers"]
        found["the whole command"] = command(HERE)
        if asked.tree is not None:
            found["the whole command, other checkout"] = command(asked.tree.absolute())
            found["ratio"] = found["the whole command, other checkout"] / found["the whole command"]
        for name, seconds in found.items():
            times.setdefault(name, []).append(seconds)
    for name, values in times.items():
        shown(name, values)


if __name__ == "__main__":
    main()
