"""Gain over the start."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.picture import Sheet
from analysis.drawing.rows import method_axis
from analysis.drawing.style import INK, QUIET, Look, keep_within, looks
from analysis.figure import Block, Figure
from analysis.results.units import NOTHING, points
from analysis.statistics.intervals import CHANGE


class Gain(Figure):
    order = 30

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if block.results:
            yield Sheet(
                "Gain over the start",
                f"Δ = final minus start {block.split} accuracy, in points, mean over clients or of the global model. "
                f"{block.lines} Intervals that overlap do not mean no difference: the paired differences are in the "
                "table.",
                block.panels(delta_intervals, styles=block.styles, split=block.split),
                width=4.0,
                height=block.height,
                legend=False,
                same_x=True,
            )


def delta_intervals(
    rows: pd.DataFrame, ax: Axes, *, styles: Mapping[str, Look] | None = None, split: str = "test"
) -> Axes:
    """A dot and its interval for each method's Δ, the gain in mean accuracy over the start.

    rows: columns method, delta, delta_low, delta_high, as `compare` gives them. With one seed there is no
    interval and the dot is hollow.
    """
    methods = [str(name) for name in rows["method"]]
    styles = styles or looks(methods)
    for row, (method, mean, low, high) in enumerate(
        zip(methods, rows["delta"], rows["delta_low"], rows["delta_high"], strict=True)
    ):
        look, known = styles[method], not np.isnan(low)
        if known:
            ax.plot([low, high], [row, row], color=look.color, linewidth=2.2, solid_capstyle="round")
        face = look.color if known else "white"
        ax.plot(
            [mean],
            [row],
            marker="o",
            markersize=7,
            color=look.color,
            markerfacecolor=face,
            linestyle="none",
        )
        ax.annotate(
            points(mean) if not np.isnan(mean) else NOTHING,
            (0.0 if np.isnan(mean) else mean, row),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            color=INK,
            # The zero line would cross out small gains.
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    ax.axvline(0, color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
    method_axis(ax, rows)
    keep_within(ax, *CHANGE, across=True)
    ax.set_xlabel(f"Δ {split} accuracy since the start, points")
    return ax
