"""What soft labels cost without a teacher and with one: ReffAKD's autoencoder beside networks that could teach.

    python -m benchmarks.reffakd [SPEC …]

For each: parameters; multiply-adds of one image forward, which are half the operations that torch's own counter gives;
MB of weights; MB on the wire, once (of the autoencoder only the first half travels; teachers whose predictions travel
cost less, see the ledger of a study); milliseconds of a forward pass and of a training step of 32 images, on one
thread. The autoencoder takes images at the size that it brings them to. Then the seconds from embeddings to soft
labels. Ratios within one run are what counts; times are the machine's.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.floor import seconds
from fedkd.distillation.autoencoder import OPTIMISATION, drawn, fitted
from fedkd.distillation.similarity import class_sums, needed_boost, pair_counts, pair_sums, similarity, soft_labels
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.weights import packed
from fedkd.models import build_model
from fedkd.models.architecture import Shape
from fedkd.protocol.client import set_up_process
from fedkd.tensors.losses import cross_entropy
from fedkd.training.optimisers import SGD

SHAPES: tuple[Shape, ...] = ((1, 28, 28), (3, 32, 32))
Loss = Callable[[Tensor, Tensor], Tensor]
"""Of (output, input)."""
CLASSES, BATCH, REPEATS = 10, 32, 5
TEACHERS = ("cnn", "resnet8", "resnet20", "wrn(depth=16, width=2)")


def multiply_adds(network: nn.Module, shape: Shape) -> int:
    """Of one image forward: half of what torch's counter counts, a multiplication and an addition each."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, *shape))
    return int(counter.get_total_flops()) // 2


def line(name: str, network: nn.Module, shape: Shape, wire: Mapping[str, Tensor], loss: Loss | None) -> str:
    """One row of the table; without a loss, of a network that is not trained by itself."""
    weights = list(network.parameters())
    optimiser = SGD(weights, OPTIMISATION)
    x = torch.rand(BATCH, *shape, generator=torch.Generator().manual_seed(0))

    def forward() -> None:
        with torch.inference_mode():
            network(x)

    def step() -> None:
        assert loss is not None
        optimiser.step(torch.autograd.grad(loss(network(x), x), weights))

    counted, passed = multiply_adds(network, shape), seconds(forward, REPEATS)
    network.train()
    trained = f"{1e3 * seconds(step, REPEATS):.1f}" if loss else "–"
    size = sum(each.numel() * each.element_size() for each in network.state_dict().values())
    return (
        f"{name:<24}{sum(map(Tensor.numel, weights)):>12,}{counted:>15,}{size / 1e6:>8.2f}"
        f"{Knowledge(wire).nbytes / 1e6:>8.2f}{1e3 * passed:>12.1f}{trained:>9}"
    )


def classified(logits: Tensor, x: Tensor) -> Tensor:
    """Cross-entropy against labels in turn."""
    return cross_entropy(logits, torch.arange(len(x)) % CLASSES)


def resources(shape: Shape, specs: list[str]) -> None:
    """The table for images of one shape."""
    title = "×".join(map(str, shape))
    print(f"{title:<24}{'parameters':>12}{'multiply-adds':>15}{'MB':>8}{'sent':>8}{'forward ms':>12}{'step ms':>9}")
    network = drawn(shape[0], torch.Generator().manual_seed(0))
    half, taken = network.encoder.state_dict(), tuple(fitted(torch.zeros(1, *shape)).shape[1:])
    print(line("autoencoder", network, taken, half, F.mse_loss))
    print(line("its first half", network.encoder, taken, half, None))
    for spec in specs:
        model = build_model(spec, shape, CLASSES, 0, "benchmark")
        print(line(spec, model, shape, packed(model), classified))


def soft_label_seconds(classes: int, samples: int, latent: int = 768) -> float:
    """From the embeddings of so many samples of each class to the soft labels."""
    embeddings = torch.rand(classes * samples, latent, generator=torch.Generator().manual_seed(0))
    labels = torch.arange(classes).repeat(samples)

    def made() -> None:
        sums, counts = class_sums(embeddings, labels, classes)
        found = similarity(pair_sums(sums, counts), pair_counts(counts))
        soft_labels(found, needed_boost(found))

    return seconds(made, REPEATS)


def main() -> None:
    """Measure and print."""
    set_up_process()
    for shape in SHAPES:
        resources(shape, sys.argv[1:] or list(TEACHERS))
    print(f"100 classes × 40 samples, from embeddings to soft labels: {soft_label_seconds(100, 40):.4f} s")


if __name__ == "__main__":
    main()
