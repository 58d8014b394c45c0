"""Ratio of two mean gains with Fieller's interval."""

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.intervals import INTERVAL_FROM, ROUNDING


class Ratio(NamedTuple):
    """Ratio of two means over the same pairs with Fieller's interval. Where it is undefined all three numbers are
    NaN and `reason` says why."""

    value: float
    low: float
    high: float
    n: int
    reason: str = ""

    @property
    def defined(self) -> bool:
        return not self.reason

    def __str__(self) -> str:
        return f"{self.value:.2f} [{self.low:.2f}, {self.high:.2f}]" if self.defined else f"undefined: {self.reason}"


def ratio_of_means(ours: "pd.Series[Any]", theirs: "pd.Series[Any]", level: float = 0.95) -> Ratio:
    """mean(ours) / mean(theirs) over the index values that both have, gains of two methods on the same seeds.

    The interval is Fieller's (1954), exact for paired normal values, at every n: it is the set of ratios r for
    which ours − r·theirs has a mean that a t-test does not tell from 0. It is bounded exactly where the t interval
    of the denominator leaves out 0; where that interval touches 0 the ratio is undefined. So it is where the
    denominator is wholly below 0 (a loss is nothing to have a margin over) and below three pairs.
    Raises ValueError when an index value occurs twice.
    """
    if not (ours.index.is_unique and theirs.index.is_unique):
        raise ValueError("ratio_of_means needs one value for each seed (or partition and seed) on either side")
    both = pd.concat([ours.rename("ours"), theirs.rename("theirs")], axis=1, join="inner").dropna()
    n = len(both)
    if n < INTERVAL_FROM:
        return _undefined(n, f"{n} pairs, an interval takes at least {INTERVAL_FROM}")
    a, b = both.mean()
    spread = both.cov().to_numpy() / n
    t = float(stats.t.ppf((1 + level) / 2, n - 1))
    if b - t * spread[1, 1] ** 0.5 <= ROUNDING:
        loss = b + t * spread[1, 1] ** 0.5 < -ROUNDING
        return _undefined(n, "the denominator is a loss" if loss else "the denominator's interval touches 0")
    # The roots of (a − r·b)² = t²·(v_aa − 2r·v_ab + r²·v_bb).
    square = b**2 - t**2 * spread[1, 1]
    linear = a * b - t**2 * spread[0, 1]
    constant = a**2 - t**2 * spread[0, 0]
    root = max(linear**2 - square * constant, 0.0) ** 0.5
    return Ratio(float(a / b), float((linear - root) / square), float((linear + root) / square), n)


def _undefined(n: int, reason: str) -> Ratio:
    return Ratio(np.nan, np.nan, np.nan, n, reason)
