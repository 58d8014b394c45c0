"""How far from the floor: training against a bare PyTorch loop, and a round against its training.

    python -m benchmarks.floor

Ratios within one run are what counts; absolute times are the machine's.
"""

from __future__ import annotations

import itertools
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import torch.nn.functional as F

from fedkd import SERVER, Data, Federation, Fit, Holdings, Node, Training, fit
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.methods.kd import KD
from fedkd.models import build_model
from fedkd.node.moment import in_round
from fedkd.protocol.client import set_up_process
from fedkd.tensors.losses import cross_entropy
from fedkd.training.batch import Target
from simulations.engine import InlineGrid

CLASSES, SHAPE, PRIVATE, PUBLIC = 10, (1, 8, 8), 104, 288


def holdings(federation: Federation, client: int) -> Holdings:
    """Random images of the size of the digits."""
    del federation
    draw = torch.Generator().manual_seed(client + 2)

    def some(n: int) -> Data:
        return Data(torch.rand(n, *SHAPE, generator=draw), torch.randint(CLASSES, (n,), generator=draw))

    public = Data(some(PUBLIC).x, None)
    if client == SERVER:
        return Holdings(SHAPE, CLASSES, None, None, public)
    data, val, test = some(PRIVATE), some(12), some(360)
    return Holdings(SHAPE, CLASSES, data, val, public, {"val": val, "test": test})


def seconds(work: Callable[[], object], repeats: int) -> float:
    """Median of `repeats` timings, after one that is not counted."""
    work()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        work()
        times.append(time.perf_counter() - began)
    return statistics.median(times)


def training() -> tuple[float, float]:
    """Milliseconds a kd step: of `fit`, and of the same arithmetic in a bare loop."""
    federation = Federation("kd", clients=2)
    held = holdings(federation, 0)
    node = Node(0, 2, 0, Training(), CLASSES, held.data, held.val, held.transfer, moment=in_round(1))
    node.models["student"] = build_model("cnn", SHAPE, CLASSES, 0, "benchmark")
    teacher = torch.randn(PUBLIC, CLASSES)
    method, steps = KD(), 200

    def ours() -> None:
        fit(node, Fit(method.loss, Target(teacher), steps=steps))

    model = node.student
    parameters: list[torch.Tensor] = list(model.parameters())
    private, public = node.private, node.public
    assert private.y is not None
    labels = private.y

    def bare() -> None:
        for step in range(steps):
            own = torch.arange(step, step + 32) % PRIVATE
            common = torch.arange(step, step + 32) % PUBLIC
            logits = model(torch.cat([private.x[own], public.x[common]]))
            loss = 0.5 * cross_entropy(logits[:32], labels[own]) + 0.5 * F.kl_div(
                F.log_softmax(logits[32:], 1), F.log_softmax(teacher[common], 1), reduction="batchmean", log_target=True
            )
            gradients = torch.autograd.grad(loss, parameters)
            with torch.no_grad():
                torch._foreach_add_(parameters, gradients, alpha=-0.05)

    return seconds(ours, 7) / steps * 1e3, seconds(bare, 7) / steps * 1e3


def client_round() -> float:
    """Milliseconds a client and round of kd on the inline engine: state, messages, training, evaluation."""
    rounds, clients = 20, 4
    federation = Federation("kd", clients=clients, rounds=rounds, start="random")
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        grid = InlineGrid(client_app(holdings), clients)
        running = Rounds(federation, holdings, Path(folder))

        def on_round(number: int, rows: object) -> None:
            del number, rows
            times.append(time.perf_counter())

        running.start(grid, sorted(grid.get_node_ids()), on_round)
    return statistics.median(after - before for before, after in itertools.pairwise(times)) / clients * 1e3


def main() -> None:
    """Measure and print."""
    set_up_process()
    ours, bare = training()
    print(f"one kd step of 32 + 32 digits, cnn: fit {ours:.2f} ms, bare loop {bare:.2f} ms, ratio {ours / bare:.2f}")
    kd = client_round()
    print(f"one client and round of kd, inline: {kd:.1f} ms, of which training {4 * ours:.1f} ms ({4 * ours / kd:.0%})")


if __name__ == "__main__":
    main()
