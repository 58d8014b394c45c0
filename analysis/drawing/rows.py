"""Panels with one row for each method: the axis of the methods, its height, ticks in points."""

from collections.abc import Iterable

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.drawing.style import labels

LABEL = 22
"""Characters in a line of a method's label beside a row."""


def rows_height(methods: Iterable[object]) -> float:
    """Inches of a panel with a row for each of these methods, so that their labels keep apart."""
    names = [str(method) for method in methods]
    lines = max((text.count("\n") + 1 for text in labels(names, width=LABEL).values()), default=1)
    return 0.9 + len(names) * max(0.42, 0.165 * lines)


def method_axis(ax: Axes, rows: pd.DataFrame, points_across: bool = True) -> None:
    """Methods down, in the order of the rows; differences of shares across, in points."""
    methods = [str(name) for name in rows["method"]]
    names = labels(methods, width=LABEL)
    ax.set_yticks(range(len(methods)), [names[method] for method in methods])
    ax.set_ylim(len(methods) - 0.4, -0.7)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if points_across:
        ax.xaxis.set_major_formatter(FuncFormatter(in_points))


def in_points(value: float, _: object = None) -> str:
    """A tick of an axis of shares: −0.025 → `−2.5`; none where no share, nor a change of one, can be."""
    return "" if abs(value) > 1 else f"{100 * value:.4g}".replace("-", "−")
