"""How long an archive of images takes: the first load, which decodes them, and the second, from the cache.

    python -m benchmarks.data ../shared/data/cifar10-jpeg.tar.xz

Each load is timed in a process of its own, up to the pixels of all images as float32 in memory; without the time
that the interpreter and torch take to start. The cache is a new folder that is removed again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

LOAD = """
import sys, time
import torch
from fedkd.data import load
began = time.perf_counter()
dataset = load(sys.argv[1])
loaded = time.perf_counter()
pixels = dataset.pixels(torch.arange(len(dataset.images)))
done = time.perf_counter()
print(len(pixels), "x".join(map(str, dataset.shape)), loaded - began, done - loaded, pixels.mean().item())
"""


def timed(source: str, cache: str) -> tuple[int, str, float, float, float]:
    """(images, their shape, seconds to load, seconds to all pixels, mean pixel) in a new process."""
    done = subprocess.run(
        [sys.executable, "-c", LOAD, source],
        env={**os.environ, "FEDKD_CACHE": cache},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    n, shape, load, pixels, mean = done.stdout.split()
    return int(n), shape, float(load), float(pixels), float(mean)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", type=Path, help="archive or folder of images, or an .npz file")
    path = parser.parse_args().path
    source = f"{'npz' if path.suffix == '.npz' else 'images'}:{path.absolute()}"
    with tempfile.TemporaryDirectory() as cache:
        first = timed(source, cache)
        later = [timed(source, cache) for _ in range(3)]
        size = sum(file.stat().st_size for file in Path(cache).rglob("*") if file.is_file())
    assert all((run[0], run[1], run[4]) == (first[0], first[1], first[4]) for run in later)
    best = min(later, key=lambda run: run[2] + run[3])
    print(f"{path.name}: {first[0]:,} images of {first[1]}, {size / 2**20:.0f} MiB in the cache")
    for name, run in (("first", first), ("second", best)):
        print(f"{name:<6} load {run[2]:6.2f} s, all pixels {run[3]:5.2f} s, together {run[2] + run[3]:6.2f} s")
    print(f"the first takes {(first[2] + first[3]) / (best[2] + best[3]):.0f} times as long as the second")


if __name__ == "__main__":
    main()
