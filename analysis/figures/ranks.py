"""Mean ranks of the methods over all partitions and seeds."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from functools import partial

import numpy as np
from matplotlib.axes import Axes

from analysis.drawing.picture import Sheet
from analysis.drawing.rows import method_axis, rows_height
from analysis.drawing.style import QUIET, Look, looks
from analysis.figure import Block, Figure
from analysis.statistics.comparisons import RANKED_FROM, is_bound, paired_values
from analysis.statistics.ranks import Ranks, rank_methods


class MeanRanks(Figure):
    order = 60

    def sheets(self, block: Block) -> Iterator[Sheet]:
        values = paired_values(block.summary.scores, pair=("partition", "seed")).dropna(axis=1, how="all")
        values = values.drop(columns=[method for method in values.columns if is_bound(method)])
        if values.shape[1] < 3 or len(values.dropna()) < RANKED_FROM:
            return
        ranks = rank_methods(values, block.summary.level)
        shown = replace(ranks, table=ranks.table.rename(index=partial(block.name, "method")))
        yield Sheet(
            "Mean ranks",
            f"Final {block.split} accuracy ranked in each (partition, seed), 1 is best, ties averaged; bounds are not "
            f"ranked. Bars reach half of Nemenyi's critical difference ({ranks.critical:.2f}) to either side: methods "
            "whose bars do not overlap differ; the band holds those that the first is not told from. Partitions share "
            "their seeds, so the test takes the blocks for more independent than they are.",
            [("all partitions", partial(rank_diagram, shown, styles=block.styles))],
            height=rows_height(shown.table.index),
            width=5.0,
            legend=False,
        )


def rank_diagram(ranks: Ranks, ax: Axes, *, styles: Mapping[str, Look] | None = None) -> Axes:
    """Mean ranks, best on top, each with half of Nemenyi's critical difference to either side: methods whose bars
    do not overlap differ, and the shaded band holds those that the best one is not told from.

    ranks: as `rank_methods` gives them. Below eight blocks there are no bars. A line under the axis says how many
    blocks there were and what Friedman's test says.
    """
    rows = ranks.table.reset_index()
    styles = styles or looks([str(name) for name in rows["method"]])
    half = ranks.critical / 2
    if not np.isnan(half) and len(rows):
        best = float(rows["rank"].iloc[0])
        ax.axvspan(best - half, best + half, color=QUIET, alpha=0.12, linewidth=0)
    for row, (method, rank) in enumerate(zip(rows["method"], rows["rank"], strict=True)):
        look = styles[str(method)]
        if not np.isnan(half):
            ax.plot([rank - half, rank + half], [row, row], color=look.color, linewidth=2.2)
        ax.plot([rank], [row], marker="o", markersize=7, color=look.color, linestyle="none")
        ax.annotate(
            f"{rank:.2f}",
            (rank, row),
            xytext=(0, 7),
            textcoords="offset points",
            ha="center",
            fontsize=8,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.6},
        )
    method_axis(ax, rows, points_across=False)
    room = 0.3 if np.isnan(half) else max(half, 0.3)
    ax.set_xlim(1 - room, max(len(rows), 2) + room)
    ax.set_xticks(range(1, max(len(rows), 2) + 1))
    test = "" if np.isnan(ranks.friedman_p) else f", Friedman p {_p(ranks.friedman_p)}"
    ax.set_xlabel(f"mean rank over {ranks.blocks} (partition, seed){test}")
    return ax


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"= {p:.3f}"
