"""Many clients: what one client and round cost at 100 and at 1,000 clients, and the memory of all processes.

    python -m benchmarks.scale [--clients 100 1000] [--engine ray] [--tree DIR]

kd by an mlp on 12,000 embedded synthetic images, three rounds, ten epochs of pre-training, nothing cached. `--tree`
measures another checkout, to compare with it. Start-up is the same at every size; it is measured with two clients, and
the cost of a client and round is what comes on top.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.memory import Peak

ROUNDS = 3
SETTINGS = {
    "dataset": "synthetic(samples=14400)",
    "partition": '["iid"]',
    "method": '["kd"]',
    "models": "mlp",
    "seed": "[0]",
    "rounds": str(ROUNDS),
    "transfer": "public(size=400)",
    "pretrain.epochs": "3",
}


def measured(clients: int, engine: str, tree: Path) -> tuple[float, float]:
    """Seconds of one federation from the command to the table, and the peak memory in GiB."""
    with tempfile.TemporaryDirectory() as folder:
        settings = [part for key, value in SETTINGS.items() for part in ("--set", f"{key}={value}")]
        command = [sys.executable, "-m", "simulations.cli", "run", "quickstart", "--engine", engine]
        environment = {**os.environ, "FEDKD_CACHE": f"{folder}/cache", "PYTHONPATH": str(tree)}
        began = time.monotonic()
        job = subprocess.Popen(
            [*command, *settings, "--set", f"clients={clients}", "--out", f"{folder}/results"],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment, cwd=tree,
        )  # fmt: skip
        peak = Peak(job)
        said, _ = job.communicate()
        if job.returncode:
            raise SystemExit(said)
        return time.monotonic() - began, peak.bytes / 2**30


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", nargs="+", type=int, default=[100, 1000])
    parser.add_argument("--engine", default="ray", choices=("ray", "inline"))
    parser.add_argument("--tree", type=Path, default=Path(__file__).parent.parent)
    asked = parser.parse_args()
    base, _ = measured(2, asked.engine, asked.tree.absolute())
    print(f"      2 clients  {base:7.1f} s: start-up", flush=True)
    for clients in asked.clients:
        seconds, peak = measured(clients, asked.engine, asked.tree.absolute())
        each = 1e3 * (seconds - base) / (clients * ROUNDS)
        print(f"{clients:7} clients  {seconds:7.1f} s  {each:6.2f} ms a client and round  {peak:5.2f} GiB", flush=True)


if __name__ == "__main__":
    main()
