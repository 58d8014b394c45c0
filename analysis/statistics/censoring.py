"""Times to a target, with runs that never reach it as censored values."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.statistics.comparisons import RANKED_FROM
from analysis.statistics.intervals import ROUNDING, Difference, paired_difference


class Reach(NamedTuple):
    """Where a curve first reached its target; a curve that never did is censored at `value`, the last position
    at which it was seen. Prints as `4` or `>10`."""

    value: float
    reached: bool

    def __str__(self) -> str:
        return f"{'' if self.reached else '>'}{self.value:g}"


class Horizon(NamedTuple):
    """A restricted mean and the position up to which it is taken."""

    mean: float
    horizon: float


def first_reach(x: npt.ArrayLike, y: npt.ArrayLike, target: float) -> Reach:
    """The first `x` whose `y` is at least `target`.

    x: positions in order (rounds, cumulative bytes), shape (points,). y: scores, shape (points,); NaN
    reaches nothing. Censored at the last x where the target is never reached.
    Raises ValueError when there are no points or when the target is NaN.
    """
    positions, scores = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if positions.size == 0 or positions.shape != scores.shape:
        raise ValueError(f"first_reach needs as many x as y and at least one, found {positions.shape}, {scores.shape}")
    if np.isnan(target):
        raise ValueError("first_reach needs a target, found NaN: nothing could reach it and all would look censored")
    there = np.flatnonzero(scores >= target - ROUNDING)
    return Reach(float(positions[there[0]]), True) if there.size else Reach(float(positions[-1]), False)


def arrival_curve(reaches: Sequence[Reach]) -> pd.DataFrame:
    """Kaplan and Meier's estimate (1958; scipy) of the share of runs that have arrived, 1 − survival.

    Columns, sorted by `position`, one row for each position where something was seen to happen: `arrived`, the share in
    [0, 1] from this position on; `censored`, how many runs were lost from sight here. A run that is censored where
    another arrives counts as still on its way there. Raises ValueError when there is nothing to estimate from.
    """
    values, censored = _split(reaches)
    if censored.all():
        positions, arrived = np.unique(values), np.zeros(len(np.unique(values)))
    else:
        survival = stats.ecdf(stats.CensoredData.right_censored(values, censored)).sf
        positions, arrived = survival.quantiles, 1 - survival.probabilities
    lost = [int((censored & (values == position)).sum()) for position in positions]
    return pd.DataFrame({"position": positions, "arrived": arrived, "censored": lost})


def median_reach(reaches: Sequence[Reach]) -> Reach:
    """Kaplan-Meier median: the first position by which half the seeds have arrived.

    Censored curves count as not yet arrived instead of being dropped, which would flatter a method that
    fails on the hard seeds. Where fewer than half arrive the median is censored too, at the largest
    position seen. Raises ValueError when there is nothing to take a median of.
    """
    curve = arrival_curve(reaches)
    half = curve[curve["arrived"] >= 0.5 - ROUNDING]["position"]
    return Reach(float(half.iloc[0]), True) if len(half) else Reach(float(curve["position"].max()), False)


def restricted_mean(reaches: Sequence[Reach], horizon: float | None = None) -> Horizon:
    """Mean of min(position, horizon): the area over the arrival curve from 0 to the horizon.

    Unlike a mean of those that arrived it is not flattered by those that did not. horizon: by default the largest
    place seen. Raises ValueError without runs, for a negative horizon, and for one beyond the last position seen
    while some run is still on its way: nothing is known there.
    """
    curve = arrival_curve(reaches)
    positions, remaining = curve["position"].to_numpy(), 1 - curve["arrived"].to_numpy()
    end = float(positions[-1]) if horizon is None else float(horizon)
    if end < 0 or (end > positions[-1] and remaining[-1] > ROUNDING):
        raise ValueError(
            f"the horizon should be between 0 and {positions[-1]:g}, the last position seen, found {end:g}"
        )
    edges = np.concatenate([[0.0], np.minimum(positions, end), [end]])
    return Horizon(float(np.diff(edges) @ np.concatenate([[1.0], remaining])), end)


def restricted_difference(
    ours: "pd.Series[Any]", theirs: "pd.Series[Any]", horizon: float | None = None, level: float = 0.95
) -> tuple[Difference, float]:
    """Paired difference of min(position, horizon) over the index values that both have, and the horizon.

    ours, theirs: a `Reach` for each seed, or (partition, seed); fewer rounds are "better". horizon: by default the
    smallest position at which a run was lost from sight, or the largest position seen where none was: up to it every
    value is known, so no run is dropped and none is guessed.
    Raises ValueError without runs and for a horizon beyond a censored run.
    """
    both = ours.index.intersection(theirs.index)
    pair = [ours.loc[both], theirs.loc[both]]
    every = [reach for series in pair for reach in series]
    values, censored = _split(every)
    latest = float(values[censored].min() if censored.any() else values.max())
    end = latest if horizon is None else float(horizon)
    if censored.any() and end > latest:
        raise ValueError(f"a run is lost from sight at {latest:g}; the horizon should not be beyond, found {end:g}")
    first, second = (series.map(lambda reach: min(reach.value, end)).astype("float64") for series in pair)
    return paired_difference(first, second, level, higher_is_better=False), end


def log_rank(ours: Sequence[Reach], theirs: Sequence[Reach]) -> float:
    """p of the log-rank test (statsmodels) that two methods arrive alike; NaN below eight runs on either side.

    It takes the runs as unpaired, which throws the common seeds away: `restricted_difference` keeps them. Where
    nobody arrives at all p is 1.
    """
    if min(len(ours), len(theirs)) < RANKED_FROM:
        return float("nan")
    values, censored = _split([*ours, *theirs])
    if censored.all():
        return 1.0
    from statsmodels.duration.survfunc import survdiff

    group = np.repeat([0, 1], [len(ours), len(theirs)])
    # A target that was met at the start is met at position 0, and the test wants times above 0; only order matters.
    p = float(survdiff(values + 1.0, (~censored).astype(int), group)[1])
    return 1.0 if np.isnan(p) else p


def _split(reaches: Sequence[Reach]) -> tuple["npt.NDArray[np.float64]", "npt.NDArray[np.bool_]"]:
    if not len(reaches):
        raise ValueError("time to target needs at least one curve, found none")
    values = np.array([reach.value for reach in reaches], dtype=np.float64)
    return values, np.array([not reach.reached for reach in reaches])
