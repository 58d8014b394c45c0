"""Long and large studies: does anything grow with rounds, and do a hundred large models fit?

python -m benchmarks.long [rounds] [--rounds 200 --clients 10]     memory, object store, disk, open files by round
python -m benchmarks.long large [--clients 100]                    peak memory with ResNet-18 at each client
"""

from __future__ import annotations

import argparse
import contextlib
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.memory import Peak, descendants, memory
from benchmarks.timed import started, timed
from fedkd.settings.federation import Federation
from fedkd.settings.training import Pretraining, Training

SKIPPED = 0.2
"""share of the rounds before the slopes are measured: caches fill in the first ones"""
UNITS = {"driver": "MiB", "workers": "MiB", "object store": "MiB", "disk": "MiB", "open files": ""}


@dataclass(frozen=True)
class Look:
    """What the study holds after a round, by name, in the units above."""

    held: dict[str, float]

    @classmethod
    def now(cls, store: Path) -> Look:
        """Of this process, all below it, and a folder."""
        family = descendants(os.getpid())
        return cls(
            {
                "driver": memory({os.getpid()}) / 2**20,
                "workers": memory(family - {os.getpid()}) / 2**20,
                "object store": object_store() / 2**20,
                "disk": sum(file.stat().st_size for file in store.rglob("*") if file.is_file()) / 2**20,
                "open files": sum(open_files(process) for process in family),
            }
        )


def open_files(process: int) -> int:
    """Number of file descriptors of a process; 0 where it has just ended."""
    with contextlib.suppress(OSError):
        return len(os.listdir(f"/proc/{process}/fd"))  # noqa: PTH208 - no Path of each is needed
    return 0


def object_store() -> float:
    """Bytes in Ray's object store; 0 without Ray."""
    ray = sys.modules.get("ray")
    if ray is None or not ray.is_initialized():
        return 0.0
    key = "object_store_memory"
    return float(ray.cluster_resources().get(key, 0.0) - ray.available_resources().get(key, 0.0))


def slope(rounds: list[int], values: list[float]) -> float:
    """Growth in 100 rounds by a straight line through the values."""
    return 100 * float(np.polyfit(rounds, values, 1)[0])


def many_rounds(rounds: int, clients: int, engine: str) -> None:
    """Run kd and print how each thing that is held grows."""
    federation = Federation(
        'kd(refresh="every round")',
        models="mlp",
        clients=clients,
        rounds=rounds,
        dataset=f"synthetic(samples={clients * 40 + 800})",
        transfer="public(size=200)",
        start="random",
        pretrain=Pretraining(epochs=0),
    )
    looks: dict[int, Look] = {}
    every = max(1, rounds // 40)

    def look(number: int) -> None:
        if number % every == 0:
            looks[number] = Look.now(Path(tempfile.gettempdir()))

    with tempfile.TemporaryDirectory() as folder:
        # What fedkd writes is counted, not what others have in the common folder.
        tempfile.tempdir = folder
        os.environ["FEDKD_CACHE"] = f"{folder}/cache"
        with started(engine) as running:
            timing = timed(running, federation, look)
    counted = [number for number in looks if number >= SKIPPED * rounds]
    print(f"{rounds} rounds of {clients} clients, engine {engine}: {sum(timing.seconds):.0f} s")
    print("| held | at the start | at the end | growth in 100 rounds | of what is held |")
    print("|---|--:|--:|--:|--:|")
    for name, unit in UNITS.items():
        values = [looks[number].held[name] for number in counted]
        grows, mean = slope(counted, values), sum(values) / len(values)
        share = f"{grows / mean:+.1%}" if mean else "–"
        print(f"| {name} | {values[0]:.1f} {unit} | {values[-1]:.1f} {unit} | {grows:+.2f} {unit} | {share} |")
    late, early = timing.seconds[-rounds // 4 :], timing.seconds[rounds // 4 : rounds // 2]
    print(f"median seconds of a round, last quarter against the second: {np.median(late) / np.median(early):.2f} times")


def large_federation(clients: int) -> Federation:
    """FedAvg with ResNet-18 at every client, of which each trains a step on four small images."""
    return Federation(
        "fedavg",
        models="torchvision:resnet18(weights='none')",
        clients=clients,
        rounds=1,
        dataset=f"synthetic(samples={6 * clients}, shape=[3, 32, 32])",
        transfer="private",
        val="none",
        start="random",
        pretrain=Pretraining(epochs=0),
        train=Training(steps=1, batch_size=4),
    )


def large(clients: int, engine: str) -> None:
    """One round of many large models in a process of its own, whose memory is watched."""
    began = time.monotonic()
    command = [
        sys.executable,
        "-m",
        "benchmarks.long",
        "large",
        "--clients",
        str(clients),
        "--engine",
        engine,
        "--here",
    ]
    job = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    peak = Peak(job)
    said, _ = job.communicate()
    if job.returncode:
        raise SystemExit(said)
    took = time.monotonic() - began
    print(f"{clients} clients with ResNet-18: {took:.0f} s, peak memory of all processes {peak.bytes / 2**30:.1f} GiB")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", nargs="?", choices=("rounds", "large"), default="rounds")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--clients", type=int, default=0, help="0: 10, or 100 large ones")
    parser.add_argument("--engine", default="ray", choices=("ray", "inline"))
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.part == "rounds":
        many_rounds(asked.rounds, asked.clients or 10, asked.engine)
    elif asked.here:
        with started(asked.engine) as running:
            timed(running, large_federation(asked.clients))
    else:
        large(asked.clients or 100, asked.engine)


if __name__ == "__main__":
    main()
