"""Curves of mean accuracy with their intervals over seeds, one line a method."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter
from matplotlib.transforms import Transform

from analysis.drawing.style import Look, keep_within
from analysis.results.values import cumulative_bytes, round_means, settings_of
from analysis.statistics.intervals import RATE, intervals


def mean_curves(table: pd.DataFrame, split: str, level: float) -> pd.DataFrame:
    """Columns method, round, mean, low, high, n and bytes (mean over seeds); sorted by method and round."""
    accuracy = round_means(table, split=split)
    method = settings_of(table)["method"]
    points = pd.DataFrame({"value": accuracy, "bytes": cumulative_bytes(table).reindex(accuracy.index)}).reset_index()
    points["method"] = points["federation"].map(method)
    keys = ["method", "round"]
    curves = intervals(points, keys, level=level, within=RATE)
    return curves.assign(bytes=points.groupby(keys)["bytes"].mean()).reset_index()


def in_order(curves: pd.DataFrame, styles: Mapping[str, Look]) -> list[tuple[str, pd.DataFrame]]:
    present = set(curves["method"])
    return [(method, curves[curves["method"] == method]) for method in styles if method in present]


def draw_line(ax: Axes, x: Any, curve: pd.DataFrame, look: Look, label: str, **more: Any) -> None:
    ax.plot(
        x,
        curve["mean"].to_numpy(),
        color=look.color,
        linestyle=look.line,
        marker=look.marker,
        markeredgecolor="white" if look.marker != "x" else None,
        markeredgewidth=0.6 if look.marker != "x" else 1.2,
        label=label,
        # A marker at 100 % sits on the edge, and is drawn whole.
        clip_on=False,
        # About ten markers a line: fifty would make all lines the same string of beads.
        **{"markevery": max(1, len(curve) // 10), **more},
    )


def draw_end(ax: Axes, x: float, final: "pd.Series[Any]", look: Look, transform: Transform, size: float = 7) -> None:
    """The last point, large, with its interval where there is one."""
    # An interval that ends at 100 % is not symmetric.
    reach = [[final["mean"] - final["low"]], [final["high"] - final["mean"]]]
    ax.errorbar(
        x,
        final["mean"],
        yerr=None if np.isnan(final["low"]) or final["low"] == final["high"] else np.maximum(reach, 0.0),
        color=look.color,
        marker=look.marker,
        markersize=size,
        markeredgecolor="white" if look.marker != "x" else None,
        capsize=2.5,
        elinewidth=1.2,
        clip_on=False,
        zorder=3,
        transform=transform,
    )


def accuracy_axis(ax: Axes, split: str) -> Axes:
    """An accuracy axis, which ends where accuracies do."""
    keep_within(ax, *RATE)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}"))
    ax.set_ylabel(f"{split} accuracy (%)")
    return ax
