"""Which samples were distilled, revised or left out."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis.drawing.picture import Sheet
from analysis.drawing.rows import method_axis, rows_height
from analysis.drawing.style import GAIN, LOSS
from analysis.figure import Block, Figure
from analysis.measures.teaching import taught_shares
from analysis.results.units import percent


class Taught(Figure):
    order = 140

    def sheets(self, block: Block) -> Iterator[Sheet]:
        shares = taught_shares(block.table)
        if not block.results or shares.empty:
            return
        yield Sheet(
            "What was distilled",
            "Samples of the transfer set, mean over clients, rounds and seeds: distilled where the teacher is right, "
            "distilled although it is wrong, revised towards the label, or left to ground truth. Right and wrong are "
            "as the labels say that the client knows.",
            block.panels(taught_bars, shares),
            width=4.0,
            height=rows_height(block.shown(shares)["method"].unique()),
            same_x=True,
        )


_PARTS = {
    "right": ("distilled, teacher right", GAIN, 1.0),
    "wrong": ("distilled, teacher wrong", LOSS, 1.0),
    "revised": ("distilled, revised", "#e69f00", 1.0),
    "left_wrong": ("left out, teacher wrong", LOSS, 0.25),
    "left_right": ("left out, teacher right", GAIN, 0.25),
}


def taught_bars(rows: pd.DataFrame, ax: Axes) -> Axes:
    """A bar for each method: what was distilled where the teacher is right or wrong, what was revised, what was left
    out.

    rows: as `taught_shares` gives them, of one panel.
    """
    at, left = np.arange(len(rows)), np.zeros(len(rows))
    for part, (label, colour, alpha) in _PARTS.items():
        share = rows[part].to_numpy(dtype=np.float64).clip(min=0)
        if share.any():
            ax.barh(at, share, left=left, height=0.6, color=colour, alpha=alpha, label=label)
        left = left + share
    method_axis(ax, rows)
    ax.set_xlim(0, 1)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda share, _: percent(share, 0)))
    ax.set_xlabel("samples of the transfer set (%)")
    return ax
