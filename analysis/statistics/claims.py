"""Verdicts on claims, by one rule that is fixed before any number is known."""

from dataclasses import dataclass
from typing import Literal

import numpy as np

from analysis.statistics.intervals import DECIDED_FROM, ROUNDING, Difference, Interval
from analysis.statistics.ratios import Ratio

Side = Literal["above", "below"]
Verdict = Literal["held", "not held", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A claim and its verdict."""

    text: str
    """The claim in words."""
    value: float
    low: float
    high: float
    n: int
    """Pairs that the interval is over."""
    verdict: Verdict
    reason: str = ""
    """Why nothing could be decided, where it was not the interval."""


def decide(
    text: str,
    estimate: Interval | Difference | Ratio,
    *,
    side: Side = "above",
    bound: float = 0.0,
    fewest: int = DECIDED_FROM,
) -> Claim:
    """A verdict on "the value lies `side` of `bound`", by the interval of the paired difference.

    "held": the interval lies wholly on the claimed side of the bound; "not held": wholly on the other; anything
    else is "undecided", and so are an undefined ratio and fewer than `fewest` pairs. For a ratio of gains the
    bound that means "no different" is 1, for a difference 0. Raises ValueError for another side.
    """
    if side not in ("above", "below"):
        raise ValueError(f"side is 'above' or 'below', found {side!r}")
    value, low, high, n = estimate[:4]
    reason = estimate.reason if isinstance(estimate, Ratio) else ""
    if n < fewest:
        reason = f"{n} pairs, a claim takes at least {fewest}"
    elif not reason and np.isnan(low):
        reason = "no interval"
    return Claim(text, value, low, high, n, "undecided" if reason else _verdict(low, high, side, bound), reason)


def _verdict(low: float, high: float, side: Side, bound: float) -> Verdict:
    above, below = low > bound + ROUNDING, high < bound - ROUNDING
    if not (above or below):
        return "undecided"
    return "held" if above == (side == "above") else "not held"
