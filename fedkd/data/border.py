"""A split into training and test samples for data that come without one."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fedkd.base.errors import UserError

SEED = 2024


def seeded_test(labels: NDArray[np.int64], fraction: float, where: str) -> NDArray[np.bool_]:
    """(n,) bool, the images for testing: the same `fraction` of every class; at least one of each is left for training.

    The seed is fixed: the border belongs to the data set, not to a study.
    Raises UserError where no class has two images.
    """
    counts = np.bincount(labels)
    # Largest remainders, so that many small classes together still give the fraction asked for.
    exact = counts * fraction
    quota = np.minimum(np.floor(exact).astype(np.int64), counts - 1)
    spare = np.flatnonzero(quota < counts - 1)
    missing = max(round(float(exact.sum())), 1) - int(quota.sum())
    quota[spare[np.argsort((quota - exact)[spare], kind="stable")][:missing]] += 1
    if not quota.any():
        raise UserError(f"{where} has one image a class; a test set needs a class with at least two")
    test = np.zeros(len(labels), bool)
    rng = np.random.default_rng(SEED)
    for label, count in enumerate(quota):
        test[rng.permutation(np.flatnonzero(labels == label))[:count]] = True
    return test
