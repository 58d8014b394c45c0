"""Change of every client."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.picture import Sheet
from analysis.drawing.rows import method_axis
from analysis.drawing.style import QUIET, Look, looks
from analysis.figure import NOTABLE, Block, Figure
from analysis.measures.breakdown import client_gains


class Clients(Figure):
    order = 90

    def sheets(self, block: Block) -> Iterator[Sheet]:
        gains = client_gains(block.table) if block.results else pd.DataFrame()
        if gains.empty or not gains.groupby(["partition", "method", "seed"])["delta"].std().max() >= NOTABLE:
            return
        yield Sheet(
            "Who gains and who pays",
            f"Δ {block.split} accuracy of every client's own model in every seed, in points. Box: first to third "
            "quartile with the median; line: worst to best client.",
            block.panels(client_spread, gains, styles=block.styles, split=block.split),
            width=4.0,
            height=block.height,
            legend=False,
            same_x=True,
        )


_MOST_DOTS = 120


def client_spread(
    gains: pd.DataFrame, ax: Axes, *, styles: Mapping[str, Look] | None = None, split: str = "test"
) -> Axes:
    """The Δ of every client in every seed: a dot each, and a box from the first to the third quartile with the
    median; whiskers reach the worst and the best client. The mean alone hides who pays for it.

    gains: columns method, delta, as `breakdown.client_gains` gives them, of one panel. Above 120 dots a method, the
    box stands alone.
    """
    methods = list(dict.fromkeys(str(name) for name in gains["method"]))
    styles = styles or looks(methods)
    for row, method in enumerate(methods):
        values = gains.loc[gains["method"] == method, "delta"].to_numpy(dtype=np.float64)
        least, first, middle, third, most = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        colour = styles[method].color
        ax.plot([least, most], [row, row], color=colour, linewidth=1.0)
        ax.barh(row, third - first, left=first, height=0.5, color=colour, alpha=0.22, edgecolor=colour)
        ax.plot([middle, middle], [row - 0.25, row + 0.25], color=colour, linewidth=2.2)
        if len(values) <= _MOST_DOTS:
            # Spread by rank, not by chance: equal results give equal files.
            offset = 0.16 * (np.argsort(np.argsort(values, kind="stable")) % 5 - 2) / 2
            ax.plot(values, row + offset, marker="o", markersize=2.6, alpha=0.65, color=colour, linestyle="none")
    ax.axvline(0, color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
    method_axis(ax, pd.DataFrame({"method": methods}))
    ax.set_xlabel(f"Δ {split} accuracy of each client, points")
    return ax
