"""Calibration."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.bars import error_arms
from analysis.drawing.picture import Sheet
from analysis.drawing.rows import method_axis
from analysis.drawing.style import GAIN, INK, LOSS
from analysis.figure import Block, Figure
from analysis.results.metrics import METRICS


class Calibration(Figure):
    order = 110

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if block.differs("ece"):
            yield Sheet(
                "Calibration",
                f"Expected calibration error on {block.split}, mean over clients and seeds, with its interval; shorter "
                "is better.",
                block.panels(calibration_bars, score="ece"),
                width=4.0,
                height=block.height,
                same_x=True,
            )


def calibration_bars(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Expected calibration error of every method, the bar at the last round with its interval, the tick at round 0;
    shorter is better.

    rows: columns method, ece, ece_low, ece_high, start_ece, as `compare` gives them.
    """
    y = np.arange(len(rows))
    share = np.nan_to_num(rows["ece"].to_numpy(dtype=np.float64))
    ax.barh(y, share, height=0.55, color=GAIN, label="last round")
    for at, row in zip(y, rows.to_dict("records"), strict=True):
        if (reach := error_arms(row["ece"], row["ece_low"], row["ece_high"])) is not None:
            ax.errorbar(row["ece"], at, xerr=reach, color=INK, elinewidth=1.1, capsize=2.5)
    ax.plot(rows["start_ece"], y, marker="|", markersize=15, markeredgewidth=2, color=LOSS, linestyle="none")
    ax.plot([], [], marker="|", markersize=10, markeredgewidth=2, color=LOSS, linestyle="none", label="round 0")
    method_axis(ax, rows)
    ax.set_xlim(0, min(1.05 * max(ax.get_xlim()[1], 0.01), 1.0))
    ax.set_xlabel(f"{METRICS['ece'].label}, points")
    return ax
