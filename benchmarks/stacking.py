"""Clients in lockstep against one by one: how much faster a round of training is, for each kind of network.

    python -m benchmarks.stacking [--only mlp cnn] [--repeats 5]
    python -m benchmarks.stacking --device cuda        # 32 clients of the two networks that GPUs are used for

Both ways train the same clients by the same job, one after the other in every repeat, on one thread; what is printed
is the time one by one divided by the time in lockstep, with its spread. On a CPU it is processor time. The table
`MEASURED` of fedkd/training/stack_size.py is made from the CPU's numbers. On a GPU also in bfloat16, compiled by torch
(both sides), and with the stack's step replayed as a CUDA graph: a bound for what is lost in launching kernels.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from benchmarks.spread import Spread, ratios
from fedkd import Data, Fit, Node, Training, fit
from fedkd.methods.local import Local
from fedkd.models import build_model
from fedkd.models.architecture import Shape
from fedkd.node.moment import in_round
from fedkd.protocol.client import set_up_process
from fedkd.training.stacked import Member, Stack, blocks, fit_stacked

CLASSES = 10


@dataclass(frozen=True)
class Case:
    """A network, its images, and the clients that train it."""

    model: str
    shape: Shape
    clients: int
    samples: int = 96

    def __str__(self) -> str:
        return f"{self.model}, {self.shape[1]}×{self.shape[2]}, {self.clients} clients"


CASES = (
    Case("mlp", (1, 8, 8), 8),
    Case("mlp", (1, 8, 8), 16),
    Case("mlp", (1, 8, 8), 32),
    Case("mlp", (1, 8, 8), 50),
    Case("mlp(hidden=[200])", (1, 28, 28), 16),
    Case("cnn", (1, 8, 8), 4),
    Case("cnn", (1, 8, 8), 8),
    Case("cnn", (1, 8, 8), 16),
    Case("cnn", (1, 8, 8), 50),
    Case("cnn", (1, 16, 16), 8),
    Case("cnn", (1, 28, 28), 8),
    Case("lenet5", (1, 28, 28), 8),
    Case("fedavg_cnn", (1, 28, 28), 4),
    Case("resnet8", (3, 32, 32), 4),
)
ON_A_GPU = (Case("fedavg_cnn", (1, 28, 28), 32), Case("resnet8", (3, 32, 32), 32))


def nodes(case: Case, training: Training, device: torch.device) -> list[Node]:
    """The clients of a case, each with samples and weights of its own."""
    draw, made = torch.Generator().manual_seed(0), []
    for client in range(case.clients):
        x = torch.rand(case.samples, *case.shape, generator=draw)
        data = Data(x, torch.randint(CLASSES, (case.samples,), generator=draw)).to(device)
        node = Node(client, case.clients, 0, training, CLASSES, data, device=device, moment=in_round(1))
        node.specs, node.shape = (case.model,) * case.clients, case.shape
        node.models["student"] = build_model(case.model, case.shape, CLASSES, client, "benchmark").to(device)
        made.append(node)
    return made


def one_by_one(clients: Sequence[Node], job: Fit) -> None:
    """A round of every client, one after the other."""
    for client in clients:
        fit(client, job)


def in_lockstep(clients: Sequence[Node], job: Fit) -> None:
    """A round of all clients together."""
    for outcome in fit_stacked(clients, [job] * len(clients)):
        if isinstance(outcome, Exception):
            raise outcome


def interleaved(ways: Sequence[Callable[[], object]], repeats: int, device: torch.device) -> list[list[float]]:
    """Seconds of each way in every repeat, after one that is not counted."""
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    times: list[list[float]] = [[] for _ in ways]
    for repeat in range(repeats + 1):
        for way, seconds in zip(ways, times, strict=True):
            _wait(device)
            began = clock()
            way()
            _wait(device)
            if repeat:
                seconds.append(clock() - began)
    return times


def measured(case: Case, training: Training, repeats: int, device: torch.device) -> tuple[Spread, Spread]:
    """(milliseconds a step and client one by one, how many times faster lockstep is)."""
    job, clients = Fit(Local().loss), nodes(case, training, device)
    steps = case.clients * training.steps_a_round(case.samples)
    alone, together = interleaved(
        [lambda: one_by_one(clients, job), lambda: in_lockstep(clients, job)], repeats, device
    )
    return Spread.of([seconds / steps * 1e3 for seconds in alone]), ratios(alone, together)


def replayed(case: Case, repeats: int, device: torch.device) -> Spread:
    """How many times faster steps of the stack are as one CUDA graph than one by one; without CUDA, as they are."""
    training, job = Training(lr=0.01), Fit(Local().loss)
    steps, clients = training.steps_a_round(case.samples), nodes(case, training, device)
    members = [Member.of(number, node, job) for number, node in enumerate(nodes(case, training, device))]
    stack = Stack(members)
    stack.begin(len(members))
    drawn = [member.batches.indices(1, 0) for member in members]
    _, x, rows = next(blocks(members, 0, 1, drawn))
    now = {name: each[:, 0] for name, each in rows.items()}

    def step() -> None:
        stack.step(x[:, 0], now, training.lr)

    replay = _captured(step) if device.type == "cuda" else step

    def replays() -> None:
        for _ in range(steps):
            replay()

    return ratios(*interleaved([lambda: one_by_one(clients, job), replays], repeats, device))


def _captured(step: Callable[[], None]) -> Callable[[], None]:
    """A step as a CUDA graph, after a few that warm it up on a stream of their own."""
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


def lines(cases: Sequence[Case], repeats: int, device: torch.device) -> Iterator[str]:
    """A row of the table for every case."""
    for case in cases:
        milliseconds, faster = measured(case, Training(lr=0.01, epochs=3), repeats, device)
        yield f"| {case} | {milliseconds} | {faster} |"


def on_a_gpu(cases: Sequence[Case], repeats: int, device: torch.device) -> Iterator[str]:
    """Rows for every case: as it is, in bfloat16, compiled, and replayed as a graph."""
    settings: list[dict[str, Any]] = [{}, {"precision": "bf16"}, {"compile": True}]
    for case in cases:
        for given in settings:
            how = ", ".join(f"{key} = {value}" for key, value in given.items())
            milliseconds, faster = measured(case, Training(lr=0.01, **given), repeats, device)
            yield f"| {case} {how} | {milliseconds} | {faster} |"
        yield f"| {case}, a step as a CUDA graph | | {replayed(case, repeats, device)} |"


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", metavar="MODEL", help="cases whose model begins so")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    asked = parser.parse_args()
    if asked.device == "cuda" and not torch.cuda.is_available():
        print("not run: torch sees no CUDA device", file=sys.stderr)
        return 2
    set_up_process()
    device = torch.device(asked.device)
    cases = CASES if device.type == "cpu" else ON_A_GPU
    chosen = [case for case in cases if not asked.only or case.model.startswith(tuple(asked.only))]
    print("| network | ms a step, one by one | times faster in lockstep |\n|---|---|---|")
    rows = lines if device.type == "cpu" else on_a_gpu
    for line in rows(chosen, asked.repeats, device):
        print(line, flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
