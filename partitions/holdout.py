"""Samples set aside: the transfer set, a test split, a client's validation set."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partitions.contract import Indices, PartitionError


def hold_out(
    samples: int | Indices,
    fraction: float,
    rng: np.random.Generator,
    labels: NDArray[np.int64] | None = None,
) -> tuple[Indices, Indices]:
    """Split indices into (held, rest), both in the order they were given.

    `samples` are indices (k,), or a number k for range(k). Of k ≥ 2 samples a fraction above 0 holds at least
    one and a fraction below 1 leaves at least one; otherwise round(fraction·k) are held. With `labels` (k,),
    one a sample in the same order, every class gives its share, rounded so that the total is the same;
    without, the choice is uniform.
    Raises PartitionError on a fraction outside 0..1 or labels of another length.
    """
    indices = np.arange(samples) if isinstance(samples, int) else np.asarray(samples, np.int64)
    k = len(indices)
    if not 0 <= fraction <= 1:
        raise PartitionError(f"fraction = {fraction}; it must be between 0 and 1")
    if labels is not None and labels.shape != (k,):
        raise PartitionError(f"labels have shape {labels.shape}; one a sample is needed: ({k},)")
    total = round(fraction * k)
    if 0 < fraction < 1:
        total = min(max(total, 1), k - 1) if k >= 2 else 0
    shuffled = rng.permutation(k)
    groups = np.zeros(k, np.int64) if labels is None else np.unique(labels, return_inverse=True)[1][shuffled]
    quota = _quotas(np.bincount(groups), total)
    # Rank of each shuffled sample within its class: those ranked below the class's quota are held.
    by_class = np.argsort(groups, kind="stable")
    starts = np.cumsum(np.bincount(groups)) - np.bincount(groups)
    rank = np.empty(k, np.int64)
    rank[by_class] = np.arange(k) - starts[groups[by_class]]
    held = np.zeros(k, bool)
    held[shuffled[rank < quota[groups]]] = True
    return indices[held], indices[~held]


def _quotas(counts: Indices, total: int) -> Indices:
    """(classes,) whole shares of `total` in proportion to `counts`, by largest remainder; ties: larger."""
    if not total:
        return np.zeros_like(counts)
    exact = counts * (total / counts.sum())
    quota: Indices = np.floor(exact).astype(np.int64)
    quota[np.lexsort((-counts, quota - exact))[: total - quota.sum()]] += 1
    return quota
