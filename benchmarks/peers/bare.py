"""A bare PyTorch loop in two one-thread processes: what the same arithmetic costs without any framework.

python -m benchmarks.peers.bare --job A --data mnist.npz [--layout channels_last] [--precision bfloat16]
"""

from __future__ import annotations

import argparse
import contextlib
import time
from typing import Any

import torch
import torch.multiprocessing as mp
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.peers.job import JOBS, Measured, Shares, arguments, balanced, network, shares, tensors

WORKERS = 2


def options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--layout", choices=("contiguous", "channels_last"), default="contiguous")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32")


class Worker:
    """Some of the clients, in one process of one thread."""

    def __init__(self, asked: argparse.Namespace, held: Shares) -> None:
        self._job, self._precision = asked.job, asked.precision
        last = asked.layout == "channels_last" and asked.job == "A"
        layout = torch.channels_last if last else torch.contiguous_format
        self._model: nn.Module = network(asked.job).to(memory_format=layout)

        def laid_out(part: Any) -> tuple[Tensor, Tensor]:
            x, y = tensors(part)
            return x.contiguous(memory_format=layout), y

        self._train = [laid_out(part) for part in held.train]
        self._test = [laid_out(part) for part in held.test]

    def round(self, state: dict[str, Tensor], number: int) -> tuple[dict[str, Tensor], int, int]:
        """Sum over the clients of weights times samples, the samples, and the test images that are right."""
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        samples = right = 0
        for client, (x, y) in enumerate(self._train):
            self._model.load_state_dict(state)
            self._trained(x, y, 1000 * number + client)
            for name, value in self._model.state_dict().items():
                total[name] += value * len(y)
            samples += len(y)
            right += self._right(*self._test[client]) if self._test else 0
        return total, samples, right

    def _trained(self, x: Tensor, y: Tensor, seed: int) -> None:
        """One epoch."""
        self._model.train()
        optimiser = torch.optim.SGD(self._model.parameters(), lr=JOBS[self._job].lr)
        order = torch.randperm(len(y), generator=torch.Generator().manual_seed(seed))
        for batch in torch.split(order, JOBS[self._job].batch):
            optimiser.zero_grad()
            with self._computing():
                logits = self._model(x[batch])
            F.cross_entropy(logits.float(), y[batch]).backward()  # type: ignore[no-untyped-call]
            optimiser.step()

    def _right(self, x: Tensor, y: Tensor) -> int:
        self._model.eval()
        with torch.inference_mode(), self._computing():
            pairs = zip(torch.split(x, 64), torch.split(y, 64), strict=True)
            return sum(int((self._model(a).argmax(1) == b).sum()) for a, b in pairs)

    def _computing(self) -> contextlib.AbstractContextManager[Any]:
        return torch.autocast("cpu", torch.bfloat16) if self._precision == "bfloat16" else contextlib.nullcontext()


def work(pipe: Any, asked: argparse.Namespace, held: Shares) -> None:
    torch.set_num_threads(1)
    worker = Worker(asked, held)
    pipe.send(None)
    while (order := pipe.recv()) is not None:
        pipe.send(worker.round(*order))


def main() -> None:
    began = time.perf_counter()
    asked = arguments(__doc__, options)
    held, context = shares(asked.job, asked.data), mp.get_context("spawn")
    pipes = []
    for hand in balanced([len(y) for _, y in held.train], WORKERS):
        ours, theirs = context.Pipe()
        mine = Shares([held.train[i] for i in hand], [held.test[i] for i in hand] if held.test else [])
        context.Process(target=work, args=(theirs, asked, mine), daemon=True).start()
        pipes.append(ours)
    for pipe in pipes:
        pipe.recv()
    state = {name: value.clone() for name, value in network(asked.job).state_dict().items()}
    seconds, accuracy, started = [], None, time.perf_counter() - began
    for number in range(asked.rounds):
        began = time.perf_counter()
        for pipe in pipes:
            pipe.send((state, number))
        replies = [pipe.recv() for pipe in pipes]
        samples = sum(reply[1] for reply in replies)
        state = {name: sum(reply[0][name] for reply in replies) / samples for name in state}
        seconds.append(time.perf_counter() - began)
        if held.test:
            accuracy = sum(reply[2] for reply in replies) / sum(len(y) for _, y in held.test)
    for pipe in pipes:
        pipe.send(None)
    each = "each client's model after its steps, on its own test part, in batches of 64" if held.test else "nothing"
    Measured(
        "bare loop", asked.job, seconds, samples, accuracy, f"{WORKERS} processes of one thread, clients dealt by size",
        each, started, [f"{asked.layout}, {asked.precision}"],
    ).said()  # fmt: skip


if __name__ == "__main__":
    main()
