"""How long 60,000 labels take to be dealt to 1,000 clients, and how much memory, strategy by strategy.

    python -m benchmarks.partitions

Each runs in a process of its own, so that a peak is its own; both numbers are without the imports.
"""

from __future__ import annotations

import resource
import time
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from partitions.contract import Samples, apply
from partitions.sizes import Sizes
from partitions.split import Split
from simulations.splits import partition_strategy, write_manifest

LABELS, CLIENTS = 60_000, 1000
SPECS = {
    "iid": 10,
    "dirichlet(alpha=0.5)": 10,
    "dirichlet(alpha=5.0, balanced=true)": 10,
    "pathological(classes=2)": 10,
    "pathological(classes=2, mode='first')": 10,
    "shards(per_client=2)": 10,
    "overlap(own=1, shared=0)": 1000,
    "disjoint": 1000,
    "long_tail(imbalance=10.0)": 10,
    "quantity(law='lognormal', sigma=0.5)": 10,
    "quantity(law='dirichlet', alpha=10.0)": 10,
    "sizes(sizes=[60, …])": 10,
    "inner_dirichlet(alpha=0.1)": 10,
    "noise(sigma=0.5)": 10,
    "rotation(degrees=45.0)": 10,
    "brightness(range=0.5)": 10,
    "label_noise(rate=0.2)": 10,
    "by_column(name='client')": 10,
    "manifest(file='FILE')": 10,
    "long_tail(imbalance=10.0)+dirichlet(alpha=5.0)+noise(sigma=0.5)+label_noise(rate=0.2)": 10,
}
"""What is measured, and on how many classes; disjoint and overlap need one a client."""


def measure(spec: str, classes: int) -> tuple[float, float, float]:
    """Seconds of the deal, MiB above what was held before, and seconds of the local tests of 10,000 samples."""
    # Imported outside of the clock: half of the strategies never need them.
    import datasets
    import flwr_datasets.partitioner

    del datasets, flwr_datasets
    rng = np.random.default_rng(0)
    samples = Samples(rng.permutation(np.arange(LABELS) % classes), {"client": np.arange(LABELS) % (CLIENTS + 400)})
    test = samples.some(rng.permutation(LABELS)[:10_000])
    # A spec string of 1,000 sizes is longer than one may be.
    strategy = Sizes((LABELS // CLIENTS,) * CLIENTS) if spec.startswith("sizes") else partition_strategy(spec)
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    partition = apply(strategy, samples, CLIENTS, seed=0)
    dealt = time.perf_counter()
    strategy.local_test(partition, samples, test, rng)
    ended = time.perf_counter()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    return dealt - began, peak / 1024, ended - dealt


def main() -> None:
    """Measure and print."""
    order = np.random.default_rng(0).permutation(LABELS)
    nothing = np.empty(0, np.int64)
    with TemporaryDirectory() as folder:
        file = Path(folder) / "deal.json"
        write_manifest(file, Split("iid", "mnist", 0, tuple(np.array_split(order, CLIENTS)), nothing, nothing))
        width = max(map(len, SPECS))
        for spec, classes in SPECS.items():
            text = spec.replace("FILE", str(file))
            # One process a strategy: a peak never falls again.
            with ProcessPoolExecutor(1, get_context("spawn")) as pool:
                seconds, peak, local = pool.submit(measure, text, classes).result()
            print(f"{spec:{width}}  {seconds:5.2f} s  {peak:5.0f} MiB   local tests {local:5.2f} s", flush=True)


if __name__ == "__main__":
    main()
