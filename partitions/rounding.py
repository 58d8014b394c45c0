"""Rounding of shares to whole numbers of samples."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partitions.partition import Indices


def largest_remainder(shares: NDArray[np.float64], totals: int | Indices) -> Indices:
    """(…, k) whole numbers in proportion to (…, k) `shares`; those along the last axis add up to the (…) `totals`.

    Each exact value is rounded down or up. Those with the largest remainders are rounded up, wherever they stand, so
    that equally distributed shares give equally distributed numbers; of equal remainders, the first is rounded up.
    The shares along the last axis are not all zero.
    """
    totals = np.asarray(totals, np.int64)
    exact = shares / shares.sum(axis=-1, keepdims=True) * totals[..., None]
    whole: Indices = np.floor(exact).astype(np.int64)
    missing = totals - whole.sum(axis=-1)
    order = np.argsort(whole - exact, axis=-1, kind="stable")
    up = np.take_along_axis(whole, order, axis=-1) + (np.arange(shares.shape[-1]) < missing[..., None])
    np.put_along_axis(whole, order, up, axis=-1)
    return whole
