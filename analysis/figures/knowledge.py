"""Knowledge gained and lost."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.picture import Sheet
from analysis.drawing.rows import method_axis
from analysis.drawing.style import GAIN, INK, LOSS
from analysis.figure import Block, Figure
from analysis.results.units import percent


class Knowledge(Figure):
    order = 40

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if block.results and block.rows["gained"].notna().any():
            yield Sheet(
                "Knowledge gained and lost",
                f"Shares of all {block.split} samples whose prediction went from wrong to right (gained) "
                "and from right to wrong (lost) between the start and the last round, "
                f"mean over clients and {block.seeds}.",
                block.panels(gained_and_lost, split=block.split),
                width=4.0,
                height=block.height,
                same_x=True,
            )


def gained_and_lost(rows: pd.DataFrame, ax: Axes, *, split: str = "test") -> Axes:
    """Diverging bars: right, the share of test samples that went from wrong to right since the start; left,
    those that went from right to wrong. The diamond is their difference, Δ.

    rows: columns method, gained, lost, shares in [0, 1], as `compare` gives them.
    """
    y = np.arange(len(rows))
    for name, sign, colour in (("gained", 1, GAIN), ("lost", -1, LOSS)):
        share = rows[name].to_numpy(dtype=np.float64)
        ax.barh(y, sign * np.nan_to_num(share), color=colour, height=0.62, label=f"knowledge {name}")
        for row, value in zip(y, share, strict=True):
            ax.annotate(
                percent(value),
                (sign * np.nan_to_num(value), row),
                xytext=(4 * sign, 0),
                textcoords="offset points",
                ha="left" if sign > 0 else "right",
                va="center",
                fontsize=8,
                color=INK,
            )
    ax.scatter(
        rows["gained"] - rows["lost"],
        y,
        marker="D",
        s=26,
        facecolor="white",
        edgecolor=INK,
        zorder=3,
        label="Δ = gained − lost",
    )
    ax.axvline(0, color=INK, linewidth=0.8)
    method_axis(ax, rows)
    # Room for the numbers at both ends of the bars.
    most, least = (float(np.nan_to_num(rows[name].max())) for name in ("gained", "lost"))
    room = 0.32 * max(most, least, 1e-3)
    ax.set_xlim(-least - room, most + room)
    ax.set_xlabel(f"share of {split} samples, points")
    return ax
