"""What selection by influence costs: scores of 50,000 samples with 512 features and 10 classes.

    python -m benchmarks.influence [--samples 50000] [--features 512] [--classes 10]

Prints seconds, and by how much the process grew at its peak. The features themselves, which the student has to
compute anyway, are made beforehand.
"""

from __future__ import annotations

import argparse
import os
import resource
import time

import torch

from fedkd.influence import last_layer_influence, validation_gradient


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=50_000)
    parser.add_argument("--features", type=int, default=512)
    parser.add_argument("--classes", type=int, default=10)
    given = parser.parse_args()
    features = torch.randn(given.samples, given.features)
    changes = torch.randn(given.samples, given.classes)
    curvature = torch.eye(given.classes) / given.classes
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    gradient = validation_gradient(features[:5000], changes[:5000])
    last_layer_influence(features, changes, curvature, gradient, 0.01)
    took, grown = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    print(
        f"{given.samples:,} samples, {given.features} features, {given.classes} classes: {took:.2f} s, "
        f"{grown / 1024:.0f} MiB more; {torch.get_num_threads()} threads of {os.cpu_count()} cores"
    )


if __name__ == "__main__":
    main()
