"""Intervals over seeds, paired differences and their verdicts: the one rule by which anything is decided.

Intervals are Student's t at every number of values from three on; two values have a range, and one has itself. A
verdict takes five pairs, and p at most 1 − level, where p is corrected for how many comparisons are read together
(`analysis.statistics.comparisons`); a single comparison is a family of one.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

# Differences below this are rounding in a mean, not an effect.
ROUNDING = 1e-9
INTERVAL_FROM = 3
"""Fewest values that have an interval: of two, Student's t at 95 % is 13 standard errors wide."""
DECIDED_FROM = 5
"""Fewest pairs, one a seed, that decide anything."""

Floats = npt.NDArray[np.float64]
Bounds = tuple[float, float]
ANYTHING: Bounds = (-np.inf, np.inf)
RATE: Bounds = (0.0, 1.0)
"""What a share, such as an accuracy, can be; its interval ends there."""
CHANGE: Bounds = (-1.0, 1.0)
"""What a difference of two shares can be."""


class Interval(NamedTuple):
    """A mean with its confidence interval; `low` and `high` are NaN where `n` < 3."""

    mean: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """Mean of `n` paired differences with its interval, the two-sided p of the paired t-test (both NaN where
    `n` < 3), and "better", "worse" or "undecided"; "" below five pairs, which decide nothing."""

    mean: float
    low: float
    high: float
    n: int
    p: float
    verdict: str


def interval(values: npt.ArrayLike, level: float = 0.95, within: Bounds = ANYTHING) -> Interval:
    """Mean and two-sided Student-t interval of independent values, one per seed.

    values: shape (n,); NaN are left out and not counted. within: what the mean can be; the interval ends there, so it
    need not be symmetric. One or two values have a mean and no interval (NaN); none has neither. Values without any
    spread give an interval of width 0.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    x = x[~np.isnan(x)]
    if x.size == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(x.mean())
    if x.size < INTERVAL_FROM or not np.isfinite(x).all():
        return Interval(mean, np.nan, np.nan, int(x.size))
    low, high = _bounds(np.array([mean]), np.array([stats.sem(x)]), np.array([x.size]), level, within)
    return Interval(mean, float(low[0]), float(high[0]), int(x.size))


def intervals(
    table: pd.DataFrame, by: Sequence[str], value: str = "value", level: float = 0.95, within: Bounds = ANYTHING
) -> pd.DataFrame:
    """`interval` of one column for every group of `by`: columns `mean, low, high, n`, indexed by `by`."""
    result = table.groupby(list(by), sort=True)[value].agg(mean="mean", sem="sem", n="count")
    mean, sem, n = (result[name].to_numpy(dtype=np.float64) for name in ("mean", "sem", "n"))
    low, high = _bounds(mean, sem, n, level, within)
    return pd.DataFrame({"mean": mean, "low": low, "high": high, "n": result["n"]}, index=result.index)


def _bounds(
    mean: Floats, sem: Floats, n: Floats | npt.NDArray[np.intp], level: float, within: Bounds
) -> tuple[Floats, Floats]:
    known = n >= INTERVAL_FROM
    low, high = stats.t.interval(level, np.where(known, n - 1, np.nan), loc=mean, scale=np.where(sem > 0, sem, np.nan))
    # scipy has no t distribution of scale 0; its limit is the mean itself.
    exact = known & (sem == 0)
    return np.clip(np.where(exact, mean, low), *within), np.clip(np.where(exact, mean, high), *within)


def paired_difference(
    ours: "pd.Series[Any]",
    theirs: "pd.Series[Any]",
    level: float = 0.95,
    higher_is_better: bool = True,
    within: Bounds = ANYTHING,
) -> Difference:
    """Mean of ours − theirs over the index values both have, with its interval, p and verdict.

    The index says what makes a pair: the seed, or (partition, seed). Pairs share their data and their
    start, so the interval of the difference is narrower than what two separate intervals suggest.
    The verdict is that of a single comparison: see `verdict`. within: as in `interval`.
    Raises ValueError when an index value occurs twice: it could not be paired.
    """
    gaps = paired_gaps(ours, theirs)
    mean, low, high, n = interval(gaps, level, within)
    p = p_value(gaps)
    return Difference(mean, low, high, n, p, verdict(mean, n, p, level, higher_is_better))


def paired_gaps(ours: "pd.Series[Any]", theirs: "pd.Series[Any]") -> Floats:
    """ours − theirs, shape (pairs,), over the index values that both have and where neither is NaN."""
    if not (ours.index.is_unique and theirs.index.is_unique):
        raise ValueError("paired_difference needs one value for each seed (or partition and seed) on either side")
    both = ours.index.intersection(theirs.index)
    gaps: Floats = ours.loc[both].to_numpy(dtype=np.float64) - theirs.loc[both].to_numpy(dtype=np.float64)
    return gaps[~np.isnan(gaps)]


def p_value(gaps: Floats) -> float:
    """Two-sided p of the t-test of mean 0; NaN below three values. Gaps without spread: 1 where they are 0, else 0,
    the limits."""
    if gaps.size < INTERVAL_FROM:
        return float("nan")
    if np.ptp(gaps) <= ROUNDING:
        return 1.0 if abs(gaps.mean()) <= ROUNDING else 0.0
    return float(stats.ttest_1samp(gaps, 0.0).pvalue)


def verdict(mean: float, n: int, p: float, level: float = 0.95, higher_is_better: bool = True) -> str:
    """ "better" or "worse" by the sign of a mean difference where p is at most 1 − level, else "undecided"; "" below
    five pairs. p: corrected for the number of comparisons where there are several."""
    if n < DECIDED_FROM or np.isnan(p):
        return ""
    if p > 1 - level or abs(mean) <= ROUNDING:
        return "undecided"
    return "better" if (mean > 0) == higher_is_better else "worse"
