"""Shares to whole numbers of samples, without a remainder that falls to any one client."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partitions.partition import Indices


def largest_remainder(shares: NDArray[np.float64], totals: int | Indices) -> Indices:
    """(…, k) whole numbers in proportion to (…, k) `shares`; those along the last axis add up to the (…) `totals`.

    Each is its exact value rounded down or up. Rounded up are those with the largest remainders, whatever their
    place, so that shares which are alike in law become numbers which are; equal remainders go to the first of them.
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
