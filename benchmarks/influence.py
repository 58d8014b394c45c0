"""What selection by influence costs: 50,000 samples with 512 features and 10 classes, half private, half distilled.

    python -m benchmarks.influence [--samples 50000] [--features 512] [--classes 10]

Prints seconds, and by how much the process grew at its peak. The features themselves, which the student has to
compute anyway, are made beforehand: classes that overlap, a head that knows most of them, and a teacher that errs.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from fedkd.tensors.influence import helpful_step, inputs_to_logits
from fedkd.tensors.losses import kl


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    given = parser.parse_args()
    n, classes, half = given.samples, given.classes, given.samples // 2
    labels = torch.randint(classes, (n,))
    features = (torch.randn(classes, given.features)[labels] / 4 + torch.randn(n, given.features)).relu().double()
    truth = torch.nn.functional.one_hot(labels, classes).double()
    head = torch.cat([truth.T @ (features - features.mean(0)) / n, torch.zeros(classes, 1)], 1)
    teacher = 3 * truth[half:] + torch.randn(n - half, classes)

    def objective(logits: Tensor) -> Tensor:
        return 0.5 * cross_entropy(logits[:half], labels[:half]) + 0.5 * kl(logits[half:], teacher)

    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, (time.perf_counter(), time.process_time())
    step, logits = helpful_step(features, head, objective, features[:5000], labels[:5000])
    (inputs_to_logits(features[half:], step) * (logits[half:].softmax(1) - truth[half:])).sum(1)
    took, busy = time.perf_counter() - began[0], time.process_time() - began[1]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{n:,} samples, {given.features} features, {classes} classes: {took:.2f} s, {busy:.2f} of all cores, "
        f"{grown / 1024:.0f} MiB more; {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
