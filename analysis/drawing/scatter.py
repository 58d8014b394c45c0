"""Gain of every method against another of its scores."""

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.drawing.bars import error_arms
from analysis.drawing.rows import in_points
from analysis.drawing.style import QUIET, Look, keep_within, labels, looks
from analysis.results.metrics import metric
from analysis.statistics.intervals import CHANGE, RATE


def gain_against(
    rows: pd.DataFrame,
    ax: Axes,
    column: str,
    label: str,
    *,
    styles: Mapping[str, Look] | None = None,
    split: str = "test",
) -> Axes:
    """Δ of every method against another of its scores, both with intervals where they have some.

    rows: columns method, delta, delta_low, delta_high and `column`, with `column`_low and _high where there is an
    interval, as `compare` gives them. label: of the x axis. Methods without the score are left out.
    """
    known = rows[rows[column].notna() & rows["delta"].notna()]
    styles = styles or looks([str(name) for name in rows["method"]])
    names = labels([str(name) for name in rows["method"]])
    for index, row in enumerate(known.to_dict("records")):
        look, method = styles[str(row["method"])], str(row["method"])
        ax.errorbar(
            row[column],
            row["delta"],
            xerr=error_arms(row[column], row.get(f"{column}_low"), row.get(f"{column}_high")),
            yerr=error_arms(row["delta"], row["delta_low"], row["delta_high"]),
            color=look.color,
            marker=look.marker,
            # Later ones are smaller, so that methods on one spot are all seen.
            markersize=max(9 - 0.7 * index, 5),
            markeredgecolor="white" if look.marker != "x" else None,
            elinewidth=1.0,
            linestyle="none",
            label=names[method],
        )
    ax.axhline(0, color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
    if ax.get_xlim()[0] < 0 < ax.get_xlim()[1]:
        ax.axvline(0, color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(in_points))
    keep_within(ax, *(RATE if metric(column).unit == "share" else CHANGE), across=True)
    keep_within(ax, *CHANGE)
    ax.set_xlabel(label)
    ax.set_ylabel(f"Δ {split} accuracy, points")
    return ax
