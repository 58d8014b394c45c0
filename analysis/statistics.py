"""Intervals over seeds, paired differences and first times with censoring.

Intervals are Student-t over seeds: with the 3 to 5 seeds that such studies have, a bootstrap covers far
less than it claims. No rank tests: they need eight pairs before they can decide anything. Verdicts are not
corrected for the number of comparisons: where nothing differs, about one in twenty is decided by chance at
a level of 0.95, so whoever quotes one of many has to correct (Holm) or say so.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

# Differences below this are rounding in a mean, not an effect.
ROUNDING = 1e-9

Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A mean with its confidence interval; `low` and `high` are NaN where `n` < 2."""

    mean: float
    low: float
    high: float
    n: int


class Difference(NamedTuple):
    """Mean of `n` paired differences with its interval, and "better", "worse" or "undecided"."""

    mean: float
    low: float
    high: float
    n: int
    verdict: str


class Reach(NamedTuple):
    """Where a curve first reached its target; a curve that never did is censored at `value`, the last place
    it was seen. Prints as `4` or `>10`."""

    value: float
    reached: bool

    def __str__(self) -> str:
        return f"{'' if self.reached else '>'}{self.value:g}"


def t_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Mean and two-sided Student-t interval of independent values, one per seed.

    NaN values are left out and not counted in `n`. One value has a mean and no interval (NaN); none has
    neither. Values without any spread give an interval of width 0.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    x = x[~np.isnan(x)]
    if x.size == 0:
        return Interval(np.nan, np.nan, np.nan, 0)
    mean = float(x.mean())
    if x.size == 1 or not np.isfinite(x).all():
        return Interval(mean, np.nan, np.nan, int(x.size))
    low, high = _bounds(np.array([mean]), np.array([stats.sem(x)]), np.array([x.size]), level)
    return Interval(mean, float(low[0]), float(high[0]), int(x.size))


def t_intervals(table: pd.DataFrame, by: Sequence[str], value: str = "value", level: float = 0.95) -> pd.DataFrame:
    """`t_interval` of one column for every group of `by`: columns `mean, low, high, n`, indexed by `by`."""
    groups = table.groupby(list(by), sort=True)[value]
    result = groups.agg(mean="mean", sem="sem", n="count")
    mean, sem, n = (result[name].to_numpy(dtype=np.float64) for name in ("mean", "sem", "n"))
    result["low"], result["high"] = _bounds(mean, sem, n, level)
    return pd.DataFrame(result, columns=["mean", "low", "high", "n"])


def _bounds(mean: Floats, sem: Floats, n: Floats | npt.NDArray[np.intp], level: float) -> tuple[Floats, Floats]:
    freedom = np.where(n > 1, n - 1, np.nan)
    low, high = stats.t.interval(level, freedom, loc=mean, scale=np.where(sem > 0, sem, np.nan))
    # scipy has no t distribution of scale 0; its limit is the mean itself.
    exact = (n > 1) & (sem == 0)
    return np.where(exact, mean, low), np.where(exact, mean, high)


def paired_difference(
    ours: "pd.Series[Any]", theirs: "pd.Series[Any]", level: float = 0.95, higher_is_better: bool = True
) -> Difference:
    """Mean of ours − theirs over the index values both have, with its t interval and verdict.

    The index says what makes a pair: the seed, or (partition, seed). Pairs share their data and their
    start, so the interval of the difference is narrower than what two separate intervals suggest.
    "better" means that the interval lies wholly on the good side of 0, "worse" wholly on the other;
    anything else, fewer than two pairs included, is "undecided".
    Raises ValueError when an index value occurs twice: it could not be paired.
    """
    if not (ours.index.is_unique and theirs.index.is_unique):
        raise ValueError("paired_difference needs one value for each seed (or partition and seed) on either side")
    both = ours.index.intersection(theirs.index)
    gaps = ours.loc[both].to_numpy(dtype=np.float64) - theirs.loc[both].to_numpy(dtype=np.float64)
    interval = t_interval(gaps, level)
    return Difference(*interval, verdict(interval, higher_is_better))


def verdict(interval: Interval, higher_is_better: bool = True) -> str:
    """ "better", "worse" or "undecided" for an interval of differences."""
    _, low, high, n = interval if higher_is_better else _mirrored(interval)
    if n >= 2 and low > ROUNDING:
        return "better"
    if n >= 2 and high < -ROUNDING:
        return "worse"
    return "undecided"


def _mirrored(interval: Interval) -> Interval:
    return Interval(-interval.mean, -interval.high, -interval.low, interval.n)


def first_reach(x: npt.ArrayLike, y: npt.ArrayLike, target: float) -> Reach:
    """The first `x` whose `y` is at least `target`.

    x: positions in order (rounds, cumulative bytes), shape (points,). y: scores, shape (points,); NaN
    reaches nothing. Censored at the last x where the target is never reached.
    Raises ValueError when there are no points.
    """
    places, scores = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if places.size == 0 or places.shape != scores.shape:
        raise ValueError(f"first_reach needs as many x as y and at least one, found {places.shape}, {scores.shape}")
    there = np.flatnonzero(scores >= target - ROUNDING)
    return Reach(float(places[there[0]]), True) if there.size else Reach(float(places[-1]), False)


def median_reach(reaches: Sequence[Reach]) -> Reach:
    """Kaplan-Meier median: the first place by which half the seeds have arrived.

    Censored curves count as not yet arrived instead of being dropped, which would flatter a method that
    fails on the hard seeds. Where fewer than half arrive the median is censored too, at the largest place
    seen. Raises ValueError when there is nothing to take a median of.
    """
    if not reaches:
        raise ValueError("median_reach needs at least one curve")
    values = np.array([reach.value for reach in reaches])
    censored = np.array([not reach.reached for reach in reaches])
    if censored.all():
        return Reach(float(values.max()), False)
    survival = stats.ecdf(stats.CensoredData.right_censored(values, censored)).sf
    half = np.flatnonzero(survival.probabilities <= 0.5 + ROUNDING)
    return Reach(float(survival.quantiles[half[0]]), True) if half.size else Reach(float(values.max()), False)
