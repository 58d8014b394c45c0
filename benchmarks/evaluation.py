"""How many samples a network should compute at a time in evaluation: images a second by size of chunk.

    python -m benchmarks.evaluation [--networks cnn mlp …] [--repeats 3]

One thread. All sizes are timed in turn, several times over (those above 1,024 once), in processor time; a cell is the
median in thousands of images a second. The last columns are what fedkd chooses, and its speed as a share of the best.
"""

from __future__ import annotations

import argparse
import statistics
import time

import torch
from torch import Tensor, nn

from fedkd.base.numerics import Precision
from fedkd.models import build_model
from fedkd.models.architecture import Shape
from fedkd.tensors.compute import Compute

SIZES = (16, 32, 64, 128, 256, 512, 1024, 2048, 4096)
NETWORKS: dict[str, Shape] = {
    "cnn": (1, 8, 8),
    "mlp": (1, 28, 28),
    "resnet8": (3, 32, 32),
    "fedavg_cnn": (1, 28, 28),
    "two convolutions": (1, 28, 28),
}
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
LAYOUTS = {"contiguous": torch.contiguous_format, "channels last": torch.channels_last}


def network(name: str) -> nn.Module:
    """A network by name; "two convolutions" has 582,026 weights, without padding."""
    if name != "two convolutions":
        return build_model(name, NETWORKS[name], 10, 0, "benchmark")
    convolutions = [nn.Conv2d(1, 32, 5), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(32, 64, 5), nn.ReLU(), nn.MaxPool2d(2)]
    return nn.Sequential(*convolutions, nn.Flatten(), nn.Linear(1024, 512), nn.ReLU(), nn.Linear(512, 10))


def rate(compute: Compute, model: nn.Module, x: Tensor, size: int) -> float:
    """Images a second of processor time in chunks of one size."""
    images = x[: max(size, 512)]
    began = time.process_time()
    compute.predicted(model, [images], size)
    return len(images) / (time.process_time() - began)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="*", default=list(NETWORKS), choices=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=3)
    given = parser.parse_args()
    torch.set_num_threads(1)
    print(f"{'':44}" + "".join(f"{size:>7}" for size in SIZES) + "   chosen        of the best")
    for name in given.networks:
        for precision in PRECISIONS:
            for layout, memory_format in LAYOUTS.items():
                model = network(name).to(memory_format=memory_format)
                x = torch.rand(max(SIZES), *NETWORKS[name]).to(memory_format=memory_format)
                compute = Compute(precision=precision)
                chosen = compute.chunk(model, x)
                sizes = dict.fromkeys((*SIZES, chosen))
                for size in sizes:
                    rate(compute, model, x[:64], min(size, 64))
                speeds = {size: [] for size in sizes}  # type: dict[int, list[float]]
                for _ in range(given.repeats):
                    for size, taken in speeds.items():
                        if size <= 1024 or not taken:
                            taken.append(rate(compute, model, x, size))
                median = {size: statistics.median(taken) / 1e3 for size, taken in speeds.items()}
                cells = "".join(f"{median[size]:7.1f}" for size in SIZES)
                best = max(speeds, key=median.__getitem__)
                share = [mine / its for mine, its in zip(speeds[chosen], speeds[best], strict=False)]
                print(
                    f"{name:18}{precision:10}{layout:16}{cells}{chosen:>9}{median[chosen]:7.1f}"
                    f"   {statistics.median(share):.2f} ({min(share):.2f} to {max(share):.2f})",
                    flush=True,
                )


if __name__ == "__main__":
    main()
