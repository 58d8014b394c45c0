"""Ratios of interleaved timings, and how far they spread."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Spread:
    """The least, the middle and the largest of several values."""

    low: float
    median: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(min(values), statistics.median(values), max(values))

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def ratios(above: Sequence[float], below: Sequence[float]) -> Spread:
    """above / below, one ratio for each repeat: what ran side by side is divided, never sums of different times.

    Both have one value for each repeat.
    """
    return Spread.of([a / b for a, b in zip(above, below, strict=True)])
