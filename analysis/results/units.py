"""Numbers as people read them: percentages, points, bytes, counts. NaN is always a dash."""

import math
from collections.abc import Callable

NOTHING = "–"
_STEPS = ("B", "KiB", "MiB", "GiB", "TiB")


def percent(share: float, digits: int = 1) -> str:
    """0.8734 → `87.3`."""
    return NOTHING if math.isnan(share) else _signed_zero(f"{100 * share:.{digits}f}")


def points(share: float, digits: int = 1) -> str:
    """0.012 → `+1.2`, -0.012 → `−1.2`: a difference of two percentages."""
    if math.isnan(share):
        return NOTHING
    text = _signed_zero(f"{100 * share:+.{digits}f}")
    return text.replace("-", "−")


def spread(low: float, high: float, digits: int = 1) -> str:
    """Half the width of a symmetric interval, in points: ` ± 1.2`, or nothing where there is no interval."""
    half = 100 * (high - low) / 2
    if math.isnan(half):
        return ""
    # "± 0.0" would claim certainty.
    fine = 1e-6 < half < 0.5 * 10**-digits
    return f" ± {half:.1g}" if fine else f" ± {half:.{digits}f}"


def around(mean: float, low: float, high: float, show: Callable[[float], str] = percent) -> str:
    """The interval behind its mean: ` ± 1.2` where it is symmetric, else ` [86.1, 88.0]` with ends as `show` prints
    them, or nothing where there is no interval."""
    if abs((high - mean) - (mean - low)) > 1e-9:
        return f" [{show(low)}, {show(high)}]"
    return spread(low, high)


def ranged(least: float, most: float, show: Callable[[float], str] = percent) -> str:
    """What stands behind a mean of two values in the place of an interval: `, range 86.1 to 88.0`."""
    if math.isnan(least) or most - least < 1e-9:
        return ""
    return f", range {show(least)} to {show(most)}"


def p_value(p: float) -> str:
    """0.0123 → `0.012`, 0.0001 → `< 0.001`."""
    return NOTHING if math.isnan(p) else "< 0.001" if p < 0.001 else f"{p:.3f}"


def size(number: float) -> str:
    """Bytes in binary units: 1536 → `1.5 KiB`."""
    if math.isnan(number):
        return NOTHING
    step = min(int(math.log2(number) // 10), len(_STEPS) - 1) if number >= 1 else 0
    scaled = f"{number / 1024**step:.3g}" if number / 1024**step < 999.5 else f"{number / 1024**step:.0f}"
    return f"{scaled} {_STEPS[step]}"


def count(number: float) -> str:
    """12300.0 → `12,300`; fractions, which means over seeds can have, keep one digit."""
    if math.isnan(number):
        return NOTHING
    return f"{number:,.0f}" if float(number).is_integer() else f"{number:,.1f}"


def _signed_zero(text: str) -> str:
    # "-0.0" and "+0.0" are the same nothing.
    return text.lstrip("+-") if not text.strip("+-0.") else text
