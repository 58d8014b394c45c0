"""The two jobs, in plain NumPy and PyTorch: what every contender is given, and how it says what it measured.

Nothing of fedkd is imported here, so that a contender can run in an environment of its own.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

CLASSES, SIDE = 10, 28
NOT_INSTALLED = 3
"""exit code of a contender that is not installed"""


@dataclass(frozen=True)
class Terms:
    """What is equal for all contenders."""

    clients: int
    batch: int
    lr: float
    weights: int
    rounds: int


JOBS = {
    "A": Terms(clients=20, batch=64, lr=0.01, weights=582_026, rounds=3),
    "B": Terms(clients=100, batch=32, lr=0.01, weights=159_010, rounds=5),
}


@dataclass(frozen=True, eq=False)
class Shares:
    """Every client's images, uint8 (n, 28, 28), and labels, int64 (n,)."""

    train: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]
    test: list[tuple[NDArray[np.uint8], NDArray[np.int64]]]
    """each client's own test part; empty where nothing is evaluated"""


@dataclass
class Measured:
    """What one run of a contender measured; `said` prints it as the last line of its output."""

    contender: str
    job: str
    seconds: list[float]
    """wall-clock seconds of each round"""
    images: int
    """training images that a round went through"""
    accuracy: float | None = None
    """share of all test images, each by its own client's model after the last round; None: not measured"""
    processes: str = ""
    evaluated: str = ""
    startup: float = 0.0
    """seconds from the start of the process to the start of the first round"""
    notes: list[str] = field(default_factory=list)

    def said(self) -> None:
        print(json.dumps(asdict(self)), flush=True)


def shares(job: str, data: Path | None) -> Shares:
    """The images of a job: A from the columns `peer_client` and `peer_is_test` of an archive, B drawn at random."""
    if job == "B":
        draw = np.random.default_rng(0)
        clients = range(JOBS["B"].clients)
        images = [draw.integers(0, 256, (60, SIDE, SIDE), np.uint8) for _ in clients]
        return Shares([(x, draw.integers(0, CLASSES, 60)) for x in images], [])
    if data is None:
        raise SystemExit("job A needs --data: an .npz with images, labels, peer_client and peer_is_test")
    with np.load(data, allow_pickle=False) as archive:
        images, labels = archive["images"], archive["labels"].astype(np.int64)
        owner, testing = archive["peer_client"], archive["peer_is_test"]

    def part(client: int, test: bool) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        # The archive is sorted by class: every client's images are shuffled once.
        rows = np.random.default_rng(client).permutation(np.flatnonzero((owner == client) & (testing == test)))
        return images[rows], labels[rows]

    everybody = range(JOBS["A"].clients)
    return Shares([part(client, False) for client in everybody], [part(client, True) for client in everybody])


def tensors(part: tuple[NDArray[np.uint8], NDArray[np.int64]]) -> tuple[Tensor, Tensor]:
    """(n, 1, 28, 28) float32 in [-1, 1], and labels (n,)."""
    images, labels = part
    return torch.from_numpy(images).float().div_(127.5).sub_(1)[:, None], torch.from_numpy(labels)


def network(job: str) -> nn.Sequential:
    """The network of a job, drawn from seed 0."""
    torch.manual_seed(0)
    if job == "B":
        return nn.Sequential(nn.Flatten(), nn.Linear(SIDE * SIDE, 200), nn.ReLU(), nn.Linear(200, CLASSES))
    return nn.Sequential(
        nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2),
        nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, CLASSES),
    )  # fmt: skip


def arguments(doc: str | None, more: Callable[[argparse.ArgumentParser], None] | None = None) -> argparse.Namespace:
    """The command line of a contender."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=JOBS, default="A")
    parser.add_argument("--data", type=Path, help=".npz with images, labels, peer_client and peer_is_test (job A)")
    parser.add_argument("--rounds", type=int, default=0, help="0: as the job says")
    if more is not None:
        more(parser)
    asked = parser.parse_args()
    asked.rounds = asked.rounds or JOBS[asked.job].rounds
    return asked


def absent(reason: str) -> NoReturn:
    """End because the contender cannot run here; the driver prints the reason."""
    print(reason, file=sys.stderr)
    raise SystemExit(NOT_INSTALLED)


def balanced(sizes: Sequence[int], workers: int) -> list[list[int]]:
    """Indices dealt to workers, the largest first, each to the worker with the least so far."""
    hands: list[list[int]] = [[] for _ in range(workers)]
    load = [0] * workers
    for index in sorted(range(len(sizes)), key=lambda i: (-sizes[i], i)):
        lightest = load.index(min(load))
        hands[lightest].append(index)
        load[lightest] += sizes[index]
    return hands
