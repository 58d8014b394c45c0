"""What it costs to refine 1 MB of text: scoring it by teacher and reference, and keeping a teacher's predictions.

    python -m benchmarks.refine [MEGABYTES [TEACHER REFERENCE]]

Untrained models of the shapes that `fedkd refine` takes by default score the embedded text, on one thread. Each is
timed against a bare forward pass over the same chunks in batches of the same size, in turn, so that what else the
machine does falls on both; then a second time, when the scores come from the cache. Ratios within one run are what
counts.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fedkd.data import load
from fedkd.difference_sampling.refinement import PIECE, losses, soft_labels
from fedkd.models import build_model
from fedkd.protocol.client import set_up_process
from fedkd.tensors.samples import Data

MODELS = ("gpt(layers=4, width=128)", "gpt(layers=2, width=64, heads=2)")
MEGABYTE, K, REPEATS = 1_000_000, 16, 3


def once(work: Callable[[], object]) -> float:
    """Seconds of one call."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def text(megabytes: float) -> Data:
    """Chunks of the embedded text, over again where it is shorter."""
    dataset = load("python_text")
    wanted = round(megabytes * MEGABYTE) // dataset.shape[0]
    rows = torch.arange(wanted) % len(dataset.samples)
    return Data(*dataset.pairs(rows))


def main() -> None:
    """Measure and print."""
    set_up_process()
    data = text(float(sys.argv[1]) if len(sys.argv) > 1 else 1.0)
    specs = sys.argv[2:] or MODELS
    length = data.x.shape[1]
    print(f"{len(data):,} chunks of {length} bytes, one thread")
    for role, spec in zip(("teacher", "reference"), specs, strict=True):
        model = build_model(spec, (length,), 256, 0, "benchmark").eval()

        def bare(x: Tensor = data.x, model: torch.nn.Module = model) -> None:
            with torch.inference_mode():
                for piece in torch.split(x, PIECE // length):
                    model(piece)

        times = []
        for _ in range(REPEATS):
            with tempfile.TemporaryDirectory() as cache:
                os.environ["FEDKD_CACHE"] = cache
                forward = once(bare)
                scored = once(lambda: losses(model, spec, data))  # noqa: B023 - called at once
                again = once(lambda: losses(model, spec, data))  # noqa: B023
            times.append((scored / forward, forward, scored, again))
        ratio, forward, scored, again = sorted(times)[len(times) // 2]
        print(
            f"{role:<10}{spec:<36} forward {forward:6.2f} s, scored {scored:6.2f} s, ratio {ratio:.2f}; "
            f"from the cache {again:.3f} s"
        )
    some = data.x[:500]
    model = build_model(specs[0], (length,), 256, 0, "benchmark")
    seconds = once(lambda: soft_labels(model, some, K))
    size = soft_labels(model, some, K).nbytes / some.numel() * MEGABYTE
    print(f"top {K} of 256 logits of 1 MB of text: {size / 2**20:.1f} MiB; {seconds:.2f} s for {len(some)} chunks")


if __name__ == "__main__":
    main()
