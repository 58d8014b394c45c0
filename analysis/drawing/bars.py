"""Error bars."""

import numpy as np


def error_arms(value: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """The two arms of an error bar, or nothing where there is no interval."""
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return None
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]
