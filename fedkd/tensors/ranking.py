"""Selection of the samples with the highest scores."""

from __future__ import annotations

import math

from torch import Tensor


def share(keep: float, samples: int) -> int:
    """⌊keep·samples⌋, but at least one: 0.29 of 100 is 29, although the product is below it in binary."""
    return max(1, math.floor(round(keep * samples, 6)))


def highest(scores: Tensor, keep: float) -> Tensor:
    """Ascending int64 indices of the ⌊keep·n⌋ highest of (n,) scores, at least one; of equal ones, the first."""
    ranked = scores.argsort(descending=True, stable=True)
    return ranked[: share(keep, len(scores))].sort().values
