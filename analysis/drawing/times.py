"""Seconds of a round by what they went to, one stacked bar a method."""

import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.style import labels

COLORS = {
    "start-up": "#9aa1ab",
    "training": "#0072b2",
    "evaluation": "#d55e00",
    "reports": "#56b4e9",
    "state": "#009e73",
    "transport": "#e69f00",
    "server": "#aa4499",
    "waiting": "#e3e6ea",
}
"""A colour for each part, from what is wanted to what is not; every bar has the parts in this order."""


def stacked_times(rows: pd.DataFrame, ax: Axes, *, by: str = "method") -> Axes:
    """Mean seconds of a round by part, one horizontal bar for each value of a column, with their sum beside it.

    rows: one a round, with the column `by` and one column of seconds for each part that is known.
    """
    parts = [part for part in COLORS if part in rows.columns]
    means = rows.groupby(by, sort=False)[parts].mean()
    names = labels([str(name) for name in means.index])
    heights = range(len(means))[::-1]
    left = pd.Series(0.0, index=means.index)
    for part in parts:
        ax.barh(list(heights), means[part], left=left, height=0.62, color=COLORS[part], label=part)
        left = left + means[part]
    for height, total in zip(heights, left, strict=True):
        ax.text(total, height, f" {total:.3g} s", va="center", ha="left", fontsize=8.5)
    ax.set_yticks(list(heights), [names[str(name)] for name in means.index])
    ax.set_xlim(0, float(left.max()) * 1.18)
    ax.set_xlabel("seconds")
    ax.grid(visible=False, axis="y")
    return ax
