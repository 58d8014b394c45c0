"""Measures of skew, from the (clients, classes) counts of samples.

An empty client has entropy 0. It has no label distribution: its distance is NaN, and null in `skew`. Averages leave it
out.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

Counts = NDArray[np.int64]
Values = NDArray[np.float64]
DIGITS = 6
"""Decimals that `skew` keeps: the last bits of a logarithm differ between machines, and hashes must not."""


def samples(counts: Counts) -> Counts:
    """(clients,) samples that each client holds."""
    return np.asarray(counts.sum(axis=1), np.int64)


def classes(counts: Counts) -> Counts:
    """(clients,) classes of which each client holds at least one sample."""
    return np.asarray((counts > 0).sum(axis=1), np.int64)


def label_entropy(counts: Counts) -> Values:
    """(clients,) entropy of each client's labels in nats: 0 for one class, log(classes) where all are equal.

    0·log 0 = 0.
    """
    from scipy.special import entr  # here, because it takes a while to import, and few processes measure anything

    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    return np.asarray(entr(shares).sum(axis=1), np.float64)


def label_distance(counts: Counts) -> Values:
    """(clients,) Jensen-Shannon distance from each client's label distribution to that of all clients together.

    The square root of the divergence to base 2: 0 where they are equal, 1 where they share no class.
    """
    from scipy.spatial.distance import jensenshannon

    distance = np.full(len(counts), np.nan)
    held = np.flatnonzero(counts.sum(axis=1))
    # Equal distributions may come out a rounding below zero, and the root of that as NaN.
    with np.errstate(invalid="ignore"):
        distances = jensenshannon(counts[held], counts.sum(axis=0, keepdims=True), base=2.0, axis=1)
    distance[held] = np.nan_to_num(distances, nan=0.0)
    return distance


def mean_label_distance(counts: Counts) -> float:
    """Mean of `label_distance` over the clients that hold samples; 0 where none does."""
    distance = label_distance(counts)
    return float(np.nanmean(distance)) if np.isfinite(distance).any() else 0.0


def size_gini(counts: Counts) -> float:
    """Gini coefficient of the clients' sizes: 0 where all are equal, 1 − 1/clients where one holds everything.

    Half the mean absolute difference of two clients' sizes, relative to the mean size; 0 where there are no samples.
    """
    sizes = np.sort(counts.sum(axis=1))
    n, total = len(sizes), int(sizes.sum())
    if not total:
        return 0.0
    return float((2 * np.arange(1, n + 1) - n - 1) @ sizes / (n * total))


def skew(counts: Counts) -> dict[str, Any]:
    """All measures as a JSON object, fractions rounded to six decimals.

    Keys: samples, classes, label_entropy (nats) and label_distance, a list with one value a client each, and the
    numbers mean_label_distance and size_gini.
    """
    return {
        "samples": samples(counts).tolist(),
        "classes": classes(counts).tolist(),
        "label_entropy": np.round(label_entropy(counts), DIGITS).tolist(),
        "label_distance": [None if np.isnan(d) else round(float(d), DIGITS) for d in label_distance(counts)],
        "mean_label_distance": round(mean_label_distance(counts), DIGITS),
        "size_gini": round(size_gini(counts), DIGITS),
    }
