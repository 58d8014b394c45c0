"""Scores on validation samples, compared so that the last bit of a float decides nothing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

MOST = 10**6
"""Samples up to which an accuracy is taken for the share of whole samples that it is."""
DECIMALS = 9
"""Decimals of a loss that count: far more than training repeats, far fewer than a float has."""


def mean_share(accuracies: Sequence[float]) -> Fraction:
    """The mean of shares k/n, exactly: those of 1, 10 and 1 of 10 samples have the mean of 1, 1 and 10.

    Each float stands for the nearest fraction of at most MOST samples, which is the one that it was divided from. One
    that is no number is worse than any other.
    """
    shares = [Fraction(each).limit_denominator(MOST) if math.isfinite(each) else Fraction(-1) for each in accuracies]
    return sum(shares, Fraction()) / len(shares)


def rounded_loss(losses: Sequence[float]) -> float:
    """The mean loss, whatever the order of the losses; one that is no number makes it larger than any other."""
    return round(math.fsum(losses) / len(losses), DECIMALS) if all(map(math.isfinite, losses)) else math.inf


def rank_key(accuracies: Sequence[float], losses: Sequence[float]) -> tuple[Fraction, float]:
    """Validation accuracy, then loss, as means over clients; the smaller key is better."""
    return -mean_share(accuracies), rounded_loss(losses)
