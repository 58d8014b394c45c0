"""Tokens a second of a byte model: `fit` against the same module in a bare loop, on one thread.

    python -m benchmarks.text [SPEC]

Without an argument, gpt with its defaults: four layers, 128 wide. Both take the same steps on chunks of the embedded
text, in turn, so that what else the machine does falls on both. Ratios within one run are what counts.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from fedkd import Data, Fit, Node, Training, fit
from fedkd.data import load
from fedkd.methods.kd import KD
from fedkd.models import build_model
from fedkd.node.moment import in_round
from fedkd.protocol.client import set_up_process
from fedkd.tensors.losses import cross_entropy
from fedkd.training.batch import Target

BATCH, STEPS, REPEATS, CHUNKS, PUBLIC = 16, 6, 9, 512, 128


def ratio(ours: Callable[[], object], bare: Callable[[], object], tokens: int) -> tuple[float, float, float]:
    """Tokens a second of both, and the median over pairs of runs of how fast ours is beside the other."""
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(REPEATS + 1):
        for work, took in zip((ours, bare), times, strict=True):
            began = time.perf_counter()
            work()
            took.append(time.perf_counter() - began)
    pairs = list(zip(times[0][1:], times[1][1:], strict=True))  # the first is not counted
    share = statistics.median(other / own for own, other in pairs)
    return tokens / statistics.median(o for o, _ in pairs), tokens / statistics.median(b for _, b in pairs), share


def main() -> None:
    """Measure and print."""
    set_up_process()
    spec = sys.argv[1] if len(sys.argv) > 1 else "gpt"
    dataset = load("python_text")
    (length,) = dataset.shape
    private, public = (
        Data(*dataset.pairs(dataset.train[start : start + n])) for start, n in ((0, CHUNKS), (CHUNKS, PUBLIC))
    )
    node = Node(
        0,
        2,
        0,
        Training(batch_size=BATCH, lr=0.01),
        len(dataset.outputs),
        private,
        None,
        Data(public.x, None),
        moment=in_round(1),
    )
    node.models["student"] = model = build_model(spec, dataset.shape, node.classes, 0, "benchmark")
    parameters: list[torch.Tensor] = list(model.parameters())
    teacher = torch.randn(PUBLIC * length, node.classes)
    labels = private.y
    assert labels is not None
    targets, soft = labels.view(-1, length), teacher.view(PUBLIC, length, -1)

    def step(loss: torch.Tensor) -> None:
        gradients = torch.autograd.grad(loss, parameters)
        with torch.no_grad():
            torch._foreach_add_(parameters, gradients, alpha=-0.01)

    def bare() -> None:
        for number in range(STEPS):
            own = torch.arange(number, number + BATCH)
            step(F.cross_entropy(model(private.x[own]).flatten(0, 1), targets[own].flatten()))

    def bare_kd() -> None:
        for number in range(STEPS):
            own = torch.arange(number, number + BATCH)
            logits = model(torch.cat([private.x[own], public.x[own]]))
            hard = F.cross_entropy(logits[:BATCH].flatten(0, 1), targets[own].flatten())
            logs, wanted = F.log_softmax(logits[BATCH:], 2), F.log_softmax(soft[own], 2)
            step(0.5 * hard + 0.5 * F.kl_div(logs, wanted, reduction="sum", log_target=True) / (BATCH * length))

    runs = {
        "next token": (lambda: fit(node, Fit(lambda b: cross_entropy(b.labelled, b.labels), steps=STEPS)), bare, 1),
        "kd": (lambda: fit(node, Fit(KD().loss, Target(teacher), steps=STEPS)), bare_kd, 2),
    }
    weights = sum(parameter.numel() for parameter in parameters)
    print(f"{spec}: {weights:,} weights; steps of {BATCH} chunks of {length} bytes of each kind, one thread")
    for name, (ours, other, kinds) in runs.items():
        fitted, floor, share = ratio(ours, other, kinds * STEPS * BATCH * length)
        print(f"{name:<12} fit {fitted:8,.0f} tokens/s, bare loop {floor:8,.0f} tokens/s, ratio {share:.2f}")


if __name__ == "__main__":
    main()
