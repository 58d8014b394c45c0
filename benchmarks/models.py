"""What a model costs: its weights, and one step of training on a batch of small images.

    python -m benchmarks.models [SPEC …]

Without arguments, every architecture that needs none, with each normalisation that it offers. Steps are those of the
training core (`SGD`, channels last), on one thread. Ratios within one run are what counts; times are the machine's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator

import torch

from benchmarks.floor import seconds
from fedkd.base.catalogue import parameters
from fedkd.base.spec import parse
from fedkd.models import ARCHITECTURES, build_model
from fedkd.models.architecture import Shape
from fedkd.protocol.client import set_up_process
from fedkd.settings.training import Optimisation
from fedkd.tensors.losses import cross_entropy
from fedkd.training.optimisers import SGD

SHAPE: Shape = (3, 32, 32)
CLASSES, BATCH, REPEATS = 10, 32, 5


def catalogue() -> Iterator[str]:
    """Specs of all architectures for images that need no argument, once for each normalisation."""
    for name in ARCHITECTURES.names:
        known = {parameter.name: parameter for parameter in parameters(ARCHITECTURES.find(parse(name)))}
        if "norm" in known:
            yield from (f"{name}(norm={kind})" for kind in known["norm"].type.split(" | "))
        elif "argument" not in known and ARCHITECTURES.build(name).takes == "images":
            yield name


def step(spec: str) -> tuple[int, float]:
    """Number of weights, and milliseconds of one step: forward, backward, update."""
    model = build_model(spec, SHAPE, CLASSES, 0, "benchmark").train()
    weights = list(model.parameters())
    optimiser = SGD(weights, Optimisation(lr=0.01))
    draw = torch.Generator().manual_seed(0)
    x, y = torch.rand(BATCH, *SHAPE, generator=draw), torch.randint(CLASSES, (BATCH,), generator=draw)

    def once() -> None:
        optimiser.step(torch.autograd.grad(cross_entropy(model(x), y), weights))

    return sum(weight.numel() for weight in weights), seconds(once, REPEATS) * 1e3


def main() -> None:
    """Measure and print."""
    set_up_process()
    specs = sys.argv[1:] or list(catalogue())
    _, unit = step("cnn")
    print(f"one step of {BATCH} images of {'×'.join(map(str, SHAPE))}, one thread; cnn: {unit:.1f} ms")
    print(f"{'model':<32}{'weights':>12}{'ms a step':>12}{'× cnn':>8}")
    for spec in specs:
        size, took = step(spec)
        print(f"{spec:<32}{size:>12,}{took:>12.1f}{took / unit:>8.1f}")


if __name__ == "__main__":
    main()
