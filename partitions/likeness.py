"""Local tests: test samples with the label distribution of each client's training samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partitions.partition import Indices, Partition, Samples


def alike(partition: Partition, samples: Samples, test: Samples, rng: np.random.Generator) -> Partition:
    """Distribute `test` in proportion to the clients' training counts of each class; the rest is dropped.

    The counts are factor · (clients, classes) training counts, each rounded up or down to a whole number. The factor
    is one for all clients and classes, so that a client's local test has its own label distribution: it is
    the largest for which no class runs out. Classes without test samples, or without training samples, do not limit it.
    """
    classes = 1 + max(samples.labels.max(initial=0), test.labels.max(initial=0))
    held = np.stack([np.bincount(samples.labels[indices], minlength=classes) for indices in partition.clients])
    there = np.bincount(test.labels, minlength=classes)
    total = held.sum(axis=0)
    both = (total > 0) & (there > 0)
    factor = (there[both] / total[both]).min() if both.any() else 0.0
    # Without a balance carried from class to class, the same clients would come off worst in every one: 1,000 equal
    # clients and 400 test samples a class would make 400 full local tests and 600 empty ones.
    owed = np.zeros(len(held))
    # Ties between equal clients are broken by lot, not by their number.
    lots = rng.permutation(len(held))
    pieces: list[list[Indices]] = [[] for _ in partition.clients]
    left = []
    for label in range(classes):
        indices = rng.permutation(np.flatnonzero(test.labels == label))
        if not len(indices):
            continue
        exact = held[:, label] * factor
        quota = _rounded(exact, len(indices), owed, lots)
        owed += exact - quota
        cuts = np.split(indices, np.cumsum(quota))
        for client in np.flatnonzero(quota):
            pieces[client].append(cuts[client])
        left.append(cuts[-1])
    clients = tuple(rng.permutation(np.concatenate(parts)) if parts else np.empty(0, np.int64) for parts in pieces)
    return Partition(clients, np.concatenate(left) if left else np.empty(0, np.int64))


def _rounded(exact: NDArray[np.float64], most: int, owed: NDArray[np.float64], lots: Indices) -> Indices:
    """(clients,) `exact` rounded up or down, so that the sum is the rounded sum, at most `most`; ties: the lowest lot.

    The clients with the largest remainder plus `owed`, their rounding loss in earlier classes, are rounded up.
    """
    quota: Indices = np.floor(exact + 1e-9).astype(np.int64)
    up = min(round(float(exact.sum())), most) - int(quota.sum())
    fractional = np.flatnonzero(exact - quota > 1e-9)
    claims = np.round(exact - quota + owed, 9)[fractional]
    quota[fractional[np.lexsort((lots[fractional], -claims))[: max(up, 0)]]] += 1
    return quota
