"""Intervals over seeds, paired differences and their verdicts.

Intervals are Student-t below ten values, where a bootstrap covers far less than it claims, and a BCa bootstrap
from ten on. A verdict here is not corrected for the number of comparisons: where nothing differs, about one in
twenty is decided by chance at a level of 0.95. `analysis.comparisons` corrects.
"""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

# Differences below this are rounding in a mean, not an effect.
ROUNDING = 1e-9
BOOTSTRAP_FROM = 10
"""Fewest values whose interval is bootstrapped."""
RESAMPLES = 9999

# Fixed sizes keep the random stream, and so every number, the same however many groups share a call.
_BATCH, _AT_ONCE = 1000, 100

Floats = npt.NDArray[np.float64]
Kind = Literal["none", "t", "bootstrap", "degenerate"]
"""How an interval was made. `degenerate`: ten or more values whose bootstrap has no BCa interval, because all are
equal or nearly so; Student-t stands in."""


class Interval(NamedTuple):
    """A mean with its confidence interval; `low` and `high` are NaN where `n` < 2."""

    mean: float
    low: float
    high: float
    n: int
    kind: Kind = "t"


class Difference(NamedTuple):
    """Mean of `n` paired differences with its interval, the two-sided p of the paired t-test (NaN where
    `n` < 2), and "better", "worse" or "undecided" by the interval."""

    mean: float
    low: float
    high: float
    n: int
    kind: Kind
    p: float
    verdict: str


def interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Mean and two-sided interval of independent values, one per seed.

    values: shape (n,); NaN are left out and not counted. Below ten: `t_interval`. From ten on: BCa bootstrap of
    the mean (Efron 1987; scipy), 9,999 resamples with a fixed seed, so the same values give the same interval;
    where it is degenerate, Student-t with `kind` "degenerate".
    """
    plain = t_interval(values, level)
    if plain.n < BOOTSTRAP_FROM or plain.kind == "none":
        return plain
    x = np.asarray(values, dtype=np.float64).ravel()
    low, high = _bootstrap(x[~np.isnan(x)][None, :], level)
    if np.isnan(low[0]):
        return plain._replace(kind="degenerate")
    return Interval(plain.mean, float(low[0]), float(high[0]), plain.n, "bootstrap")


def intervals(table: pd.DataFrame, by: Sequence[str], value: str = "value", level: float = 0.95) -> pd.DataFrame:
    """`interval` of one column for every group of `by`: columns `mean, low, high, n, kind`, indexed by `by`."""
    groups = table.groupby(list(by), sort=True)[value]
    result = groups.agg(mean="mean", sem="sem", n="count")
    mean, sem, n = (result[name].to_numpy(dtype=np.float64) for name in ("mean", "sem", "n"))
    low, high = _bounds(mean, sem, n, level)
    kind = np.where(np.isnan(low), "none", np.where(n < BOOTSTRAP_FROM, "t", "degenerate"))
    known = table[value].notna()
    place = groups.ngroup()[known].to_numpy()
    ordered = table.loc[known, value].to_numpy(dtype=np.float64)[np.argsort(place, kind="stable")]
    first = np.concatenate([[0], np.cumsum(np.bincount(place, minlength=len(result)))])
    for size in np.unique(n[(n >= BOOTSTRAP_FROM) & (kind != "none")]).astype(int):
        mine = np.flatnonzero((n == size) & (kind != "none"))
        found = _bootstrap(ordered[first[mine][:, None] + np.arange(size)], level)
        sound = ~np.isnan(found[0])
        low[mine[sound]], high[mine[sound]] = found[0][sound], found[1][sound]
        kind[mine[sound]] = "bootstrap"
    return pd.DataFrame({"mean": mean, "low": low, "high": high, "n": result["n"], "kind": kind}, index=result.index)


def _bootstrap(x: Floats, level: float) -> tuple[Floats, Floats]:
    """BCa bounds of the mean of each row, shape (groups, n) → (groups,) twice; NaN where degenerate."""
    low, high = np.full(len(x), np.nan), np.full(len(x), np.nan)
    # Values that differ by rounding alone have a bootstrap, of rounding.
    spread = np.flatnonzero(np.ptp(x, axis=1) > ROUNDING)
    for at in range(0, len(spread), _AT_ONCE):
        mine = spread[at : at + _AT_ONCE]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", stats.DegenerateDataWarning)
            found = stats.bootstrap(
                (x[mine],),
                np.mean,
                axis=-1,
                n_resamples=RESAMPLES,
                batch=_BATCH,
                confidence_level=level,
                method="BCa",
                vectorized=True,
                rng=np.random.default_rng(0),
            ).confidence_interval
        low[mine], high[mine] = found.low, found.high
    return low, high


def t_interval(values: npt.ArrayLike, level: float = 0.95) -> Interval:
    """Mean and two-sided Student-t interval of independent values, whatever their number.

    NaN values are left out and not counted in `n`. One value has a mean and no interval (NaN); none has
    neither. Values without any spread give an interval of width 0.
    """
    x = np.asarray(values, dtype=np.float64).ravel()
    x = x[~np.isnan(x)]
    if x.size == 0:
        return Interval(np.nan, np.nan, np.nan, 0, "none")
    mean = float(x.mean())
    if x.size == 1 or not np.isfinite(x).all():
        return Interval(mean, np.nan, np.nan, int(x.size), "none")
    low, high = _bounds(np.array([mean]), np.array([stats.sem(x)]), np.array([x.size]), level)
    return Interval(mean, float(low[0]), float(high[0]), int(x.size))


def _bounds(mean: Floats, sem: Floats, n: Floats | npt.NDArray[np.intp], level: float) -> tuple[Floats, Floats]:
    freedom = np.where(n > 1, n - 1, np.nan)
    low, high = stats.t.interval(level, freedom, loc=mean, scale=np.where(sem > 0, sem, np.nan))
    # scipy has no t distribution of scale 0; its limit is the mean itself.
    exact = (n > 1) & (sem == 0)
    return np.where(exact, mean, low), np.where(exact, mean, high)


def paired_difference(
    ours: "pd.Series[Any]", theirs: "pd.Series[Any]", level: float = 0.95, higher_is_better: bool = True
) -> Difference:
    """Mean of ours − theirs over the index values both have, with its interval, p and verdict.

    The index says what makes a pair: the seed, or (partition, seed). Pairs share their data and their
    start, so the interval of the difference is narrower than what two separate intervals suggest.
    "better" means that the interval lies wholly on the good side of 0, "worse" wholly on the other;
    anything else, fewer than two pairs included, is "undecided". p is that of the paired t-test at every n.
    Raises ValueError when an index value occurs twice: it could not be paired.
    """
    gaps = paired_gaps(ours, theirs)
    found = interval(gaps, level)
    return Difference(*found, p_value(gaps), verdict(found, higher_is_better))


def paired_gaps(ours: "pd.Series[Any]", theirs: "pd.Series[Any]") -> Floats:
    """ours − theirs, shape (pairs,), over the index values that both have and where neither is NaN."""
    if not (ours.index.is_unique and theirs.index.is_unique):
        raise ValueError("paired_difference needs one value for each seed (or partition and seed) on either side")
    both = ours.index.intersection(theirs.index)
    gaps: Floats = ours.loc[both].to_numpy(dtype=np.float64) - theirs.loc[both].to_numpy(dtype=np.float64)
    return gaps[~np.isnan(gaps)]


def p_value(gaps: Floats) -> float:
    """Two-sided p of the t-test of mean 0; NaN below two values. Gaps without spread: 1 where they are 0, else 0,
    the limits."""
    if gaps.size < 2:
        return float("nan")
    if np.ptp(gaps) <= ROUNDING:
        return 1.0 if abs(gaps.mean()) <= ROUNDING else 0.0
    return float(stats.ttest_1samp(gaps, 0.0).pvalue)


def verdict(found: Interval, higher_is_better: bool = True) -> str:
    """ "better", "worse" or "undecided" for an interval of differences."""
    low, high = (found.low, found.high) if higher_is_better else (-found.high, -found.low)
    if found.n >= 2 and low > ROUNDING:
        return "better"
    if found.n >= 2 and high < -ROUNDING:
        return "worse"
    return "undecided"
