"""Mean ranks of methods over blocks, with Friedman's test and Nemenyi's critical difference."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from analysis.statistics.comparisons import RANKED_FROM


@dataclass(frozen=True)
class Ranks:
    """Methods ranked against each other on the same blocks."""

    table: pd.DataFrame
    """Index method, best first: `rank` (mean over blocks, 1 is best) and `wins` (blocks where it came first; a
    tie for the first place counts for each)."""
    blocks: int
    """How many (partition, seed) had a value of every method; others are left out."""
    left_out: int
    friedman_p: float
    """p of Friedman's test that all ranks are alike; NaN below eight blocks or three methods."""
    critical: float
    """Nemenyi's critical difference of two mean ranks; NaN where `friedman_p` is."""

    def alike(self) -> list[tuple[str, ...]]:
        """The largest groups whose mean ranks lie within the critical difference, best first; empty without one."""
        methods, rank = [str(name) for name in self.table.index], self.table["rank"].to_numpy()
        groups: list[tuple[str, ...]] = []
        for first in range(len(methods)):
            last = int(np.flatnonzero(rank <= rank[first] + self.critical).max(initial=first))
            if last > first and not (groups and methods[last] in groups[-1]):
                groups.append(tuple(methods[first : last + 1]))
        return groups


def rank_methods(values: pd.DataFrame, level: float = 0.95, higher_is_better: bool = True) -> Ranks:
    """Mean ranks over the blocks that have every method, ties averaged.

    values: one row a block, (partition, seed), one column a method, as `comparisons.paired_values` gives them.
    The test is Friedman's (scipy), the critical difference Nemenyi's, q·√(k(k+1) / 6n) with q the studentized
    range of k methods over √2 (Demšar 2006); both only from eight blocks and three methods on. Blocks that share
    a seed are less independent than the tests take them to be. Raises ValueError without methods.
    """
    if not len(values.columns):
        raise ValueError("rank_methods needs at least one method, found none")
    whole = values.dropna()
    # Means over clients of equal accuracies can differ in the last bit; they tie.
    sign = -1.0 if higher_is_better else 1.0
    ranks = stats.rankdata(np.round(sign * whole.to_numpy(dtype=np.float64), 12), axis=1)
    n, k = ranks.shape
    table = pd.DataFrame(
        {
            "rank": ranks.mean(axis=0) if n else np.full(k, np.nan),
            "wins": (ranks == ranks.min(axis=1, keepdims=True)).sum(axis=0) if n else np.zeros(k, dtype=np.intp),
        },
        index=pd.Index(values.columns, name="method"),
    )
    friedman, critical = float("nan"), float("nan")
    if n >= RANKED_FROM and k >= 3:
        # Where all methods tie in every block scipy divides 0 by 0; nothing differs.
        friedman = float(stats.friedmanchisquare(*ranks.T).pvalue) if np.ptp(ranks) else 1.0
        critical = float(stats.studentized_range.ppf(level, k, np.inf)) / 2**0.5 * (k * (k + 1) / (6 * n)) ** 0.5
    table = table.sort_values("rank", kind="stable")
    return Ranks(table, n, len(values) - n, friedman, critical)
