"""All methods against one baseline, or against their start, on the same pairs, corrected for their number."""

import functools
from collections.abc import Collection, Mapping, Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.results.names import base_name
from analysis.statistics.intervals import ROUNDING, Floats, interval, p_value, paired_gaps, verdict

RANKED_FROM = 8
"""Fewest pairs, or blocks, of which a rank test is made: with fewer it cannot decide anything."""
BOUNDS = ("pooled", "ensemble")
"""What could be reached and not what competes: bounds are neither ranked nor named as winners."""
BOUND = "bound"
"""What stands in the place of a bound's verdict."""


def is_bound(method: str) -> bool:
    """Whether a spec string is that of a bound."""
    return base_name(method) in BOUNDS


def loses_less(baseline: str) -> str:
    """The verdict on a method that ends above the baseline and below its own start: nothing became better."""
    return f"loses less than {baseline}"


def baseline_of(cells: pd.DataFrame, baseline: str) -> str | None:
    """The label of the baseline among these methods: itself, or the only spec of that name."""
    methods = set(cells["method"])
    named = [method for method in methods if base_name(method) == baseline]
    if baseline in methods:
        return baseline
    return named[0] if len(named) == 1 else None


def paired_values(scores: pd.DataFrame, value: str = "accuracy", pair: Sequence[str] = ("seed",)) -> pd.DataFrame:
    """One row a pair, one column a method, for `compare_with_baseline` and `ranks.rank_methods`.

    scores: rows of `scores.federation_scores`, of one block. pair: what methods share, ("seed",) inside one
    partition, ("partition", "seed") across partitions. NaN where a method has no such federation.
    Raises ValueError when a method has two values for one pair.
    """
    keys = [*pair, "method"]
    if scores.duplicated(keys).any():
        raise ValueError(f"paired_values needs one federation for each {', '.join(keys)}; pass the rows of one block")
    return scores.pivot(index=list(pair), columns="method", values=value)


def compare_with_baseline(
    values: pd.DataFrame,
    baseline: str,
    level: float = 0.95,
    higher_is_better: bool = True,
    bounds: Collection[str] = (),
) -> pd.DataFrame:
    """Every other column against `baseline`, one row each: see `family_verdicts`.

    values: as `paired_values` gives them, of one block and one partition where that is the family to state.
    Pairs of several partitions share their seed, so they are less independent than their number says.
    Raises ValueError when the baseline is no column.
    """
    if baseline not in values.columns:
        raise ValueError(f"the baseline {baseline} has no values; there are {', '.join(map(str, values.columns))}")
    others = values.columns.drop(baseline)
    gaps = {str(method): paired_gaps(values[method], values[baseline]) for method in others}
    return family_verdicts(gaps, level, higher_is_better, bounds)


def family_verdicts(
    gaps: Mapping[str, Floats], level: float = 0.95, higher_is_better: bool = True, bounds: Collection[str] = ()
) -> pd.DataFrame:
    """Differences of several methods, one value a pair, as one family with one verdict each.

    gaps: the differences of each method, shape (pairs,). bounds: methods that are no competitors; they have a
    difference, and take no part in the family. Columns: `difference`, `low`, `high` (Student's t, not corrected),
    `least`, `most`, `pairs`, `p` of the paired t-test, `family`: how many comparisons the correction is over,
    `adjusted_p` (Holm 1979; statsmodels), `verdict` by it (`statistics.verdict`; "bound" for bounds), and
    `wilcoxon_p`: the signed-rank test, NaN below eight pairs. Index: `method`.
    """
    rows = {}
    for method, each in gaps.items():
        mean, low, high, n = interval(each, level)
        ends = (each.min(), each.max()) if n else (np.nan, np.nan)
        rows[method] = [mean, low, high, *ends, n, p_value(each), wilcoxon_p(each)]
    names = ["difference", "low", "high", "least", "most", "pairs", "p", "wilcoxon_p"]
    result = pd.DataFrame.from_dict(rows, orient="index", columns=names).rename_axis("method")
    compete = ~result.index.isin(list(bounds))
    result["family"] = int((result["p"].notna() & compete).sum())
    result["adjusted_p"] = holm(result["p"].where(compete).to_numpy(dtype=np.float64))
    result["verdict"] = [
        verdict(row["difference"], row["pairs"], row["adjusted_p"], level, higher_is_better)
        for row in result.to_dict("records")
    ]
    result.loc[~compete, "verdict"] = BOUND
    return result


def holm(p: npt.ArrayLike) -> Floats:
    """Holm's adjusted p-values, in the order given; NaN stay NaN and are not counted in the family."""
    values = np.asarray(p, dtype=np.float64)
    result, known = np.full(values.shape, np.nan), ~np.isnan(values)
    if known.any():
        result[known] = _holm(tuple(values[known].tolist()))
    return result


# multipletests collects garbage at each call, a tenth of a second in a process that holds torch, and a command that
# prints and draws a comparison makes it twice.
@functools.lru_cache(maxsize=1024)
def _holm(p: tuple[float, ...]) -> tuple[float, ...]:
    # Imported late: no command but a comparison should wait for statsmodels.
    from statsmodels.stats.multitest import multipletests

    return p if len(p) == 1 else tuple(multipletests(p, method="holm")[1].tolist())


def wilcoxon_p(gaps: Floats) -> float:
    """Two-sided p of Wilcoxon's signed-rank test (scipy), zeros kept in the ranking (Pratt); NaN below eight pairs;
    1 where no pair differs."""
    if gaps.size < RANKED_FROM:
        return float("nan")
    # Equal gaps should tie, and rounding in means would break the ties.
    rounded = np.where(np.abs(gaps) <= ROUNDING, 0.0, np.round(gaps, 12))
    return float(stats.wilcoxon(rounded, zero_method="pratt").pvalue) if rounded.any() else 1.0
