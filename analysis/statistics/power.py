"""The number of seeds that a paired t-test would take to decide."""

import math
from bisect import bisect_left

import numpy as np

from analysis.statistics.intervals import DECIDED_FROM, INTERVAL_FROM, ROUNDING, Floats

POWER = 0.8
MOST_SEEDS = 1000
"""The largest number of seeds that is looked at."""


def seeds_to_decide(gaps: Floats, level: float = 0.95, family: int = 1, power: float = POWER) -> float:
    """About how many seeds the paired t-test takes to tell a difference from 0, were it truly what it is here
    (statsmodels).

    gaps: one difference a seed, shape (pairs,). The test is at (1 − level) / family, which is what Holm's correction
    asks of the smallest p of a family, and so on the safe side for the others. power: how likely it then decides.
    Never fewer than five; infinite above 1,000; NaN below three pairs, whose spread says nothing.
    """
    if gaps.size < INTERVAL_FROM:
        return math.nan
    mean, spread = abs(float(gaps.mean())), float(np.std(gaps, ddof=1))
    if mean <= ROUNDING:
        return math.inf
    if spread <= ROUNDING:
        return float(DECIDED_FROM)
    # Imported late: no command but a report should wait for statsmodels.
    from statsmodels.stats.power import TTestPower

    test, effect, alpha = TTestPower(), mean / spread, (1 - level) / max(family, 1)
    # solve_power stops at its first guess where the effect is large; more seeds never have less power.
    seeds = range(DECIDED_FROM, MOST_SEEDS + 1)
    index = bisect_left(seeds, power, key=lambda number: float(test.power(effect, number, alpha)))
    return float(seeds[index]) if index < len(seeds) else math.inf
