"""All methods against one baseline, on the same pairs, corrected for their number."""

import functools
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from analysis.statistics import ROUNDING, Floats, paired_difference, paired_gaps

RANKED_FROM = 8
"""Fewest pairs, or blocks, of which a rank test is made: with fewer it cannot decide anything."""


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
    values: pd.DataFrame, baseline: str, level: float = 0.95, higher_is_better: bool = True
) -> pd.DataFrame:
    """Every other column against `baseline`, one row each: the family that Holm's correction is over.

    values: as `paired_values` gives them, of one block and one partition where that is the family to state.
    Pairs of several partitions share their seed, so they are less independent than their number says.

    Columns: `difference`, `low`, `high`, `kind`, `pairs`, `p`, `verdict`, uncorrected (see `paired_difference`);
    `family`, how many comparisons have a p at all; `adjusted_p` (Holm 1979; statsmodels); `corrected`: the
    verdict where `adjusted_p` is at most 1 − level, else "undecided", so that a correction decides nothing that
    the interval left open; `wilcoxon_p`: the signed-rank test, NaN below eight pairs.
    Raises ValueError when the baseline is no column.
    """
    if baseline not in values.columns:
        raise ValueError(f"the baseline {baseline} has no values; there are {', '.join(map(str, values.columns))}")
    rows = {}
    for method in values.columns.drop(baseline):
        found = paired_difference(values[method], values[baseline], level, higher_is_better)
        signed = wilcoxon_p(paired_gaps(values[method], values[baseline]))
        rows[method] = [found.mean, found.low, found.high, found.kind, found.n, found.p, found.verdict, signed]
    names = ["difference", "low", "high", "kind", "pairs", "p", "verdict", "wilcoxon_p"]
    result = pd.DataFrame.from_dict(rows, orient="index", columns=names)
    result["family"] = int(result["p"].notna().sum())
    result["adjusted_p"] = holm(result["p"].to_numpy(dtype=np.float64))
    decided = result["adjusted_p"] <= 1 - level
    result["corrected"] = result["verdict"].where(decided, "undecided")
    return result.rename_axis("method")


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
