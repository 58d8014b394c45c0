"""Accuracy against rounds."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.drawing.curves import accuracy_axis, draw_end, draw_line, in_order, mean_curves
from analysis.drawing.picture import Sheet
from analysis.drawing.style import QUIET, Look, labels, looks
from analysis.figure import Block, Figure
from analysis.results.evaluated import main_split
from analysis.results.values import frozen_teachers, start_rounds


class AccuracyRounds(Figure):
    order = 10

    def sheets(self, block: Block) -> Iterator[Sheet]:
        frozen = ", ".join(block.name("method", method) for method in frozen_teachers(block.table))
        axis = f"Frozen teachers ({frozen}): knowledge travels once, so later rounds are local epochs. "
        yield Sheet(
            "Accuracy against rounds",
            f"Mean {block.split} accuracy over clients, or of the global model where the server holds one; round 0 is "
            f"the common start. {block.summary.evaluated.curves}{block.lines} {axis * bool(frozen)}{block.several}",
            block.curves(accuracy_against_rounds),
        )


_MOST_BANDS = 6


def accuracy_against_rounds(
    table: pd.DataFrame,
    ax: Axes,
    *,
    split: str | None = None,
    level: float = 0.95,
    styles: Mapping[str, Look] | None = None,
) -> Axes:
    """Mean accuracy at every round, round 0 being the common start.

    table: one panel, as `load` gives it. split: by default the main one. styles: looks by method where several panels
    are to agree. With one seed there is no band; with more than six methods the bands would hide each other, and bars
    to the right of the last round take their place. The x axis says "rounds (local epochs)" when some method's
    teachers are frozen: its knowledge travelled once, and later rounds are local training with it. A dotted vertical
    is the last round of a consolidated start.
    """
    split = split or main_split(table)
    styles = styles or looks(list(table["method"].unique()))
    names = labels(list(styles))
    curves = mean_curves(table, split, level)
    drawn = in_order(curves, styles)
    for index, (method, curve) in enumerate(drawn):
        look, x = styles[method], curve["round"].to_numpy()
        draw_line(ax, x, curve, look, names[method])
        if curves["method"].nunique() > _MOST_BANDS:
            beyond = float(x[-1]) * (1.03 + 0.028 * index)
            draw_end(ax, beyond, curve.iloc[-1], look, ax.transData, size=4.5)
            continue
        # Thin edges keep overlapping bands apart where fills alone would add up to mud.
        ax.fill_between(x, curve["low"], curve["high"], color=look.color, alpha=0.09, linewidth=0)
        for edge in ("low", "high"):
            ax.plot(x, curve[edge], color=look.color, alpha=0.35, linewidth=0.6)
    for number in set(start_rounds(table)) - {0}:
        ax.axvline(number, color=QUIET, linewidth=0.8, linestyle=":", zorder=1)
    ax.set_xlabel("rounds (local epochs)" if frozen_teachers(table) else "rounds")
    last = int(curves["round"].max())
    ticks = np.asarray(MaxNLocator(7, integer=True, steps=[1, 2, 5, 10]).tick_values(0, max(last, 1)))
    ax.set_xticks(ticks[(ticks >= 0) & (ticks <= max(last, 1))])
    return accuracy_axis(ax, split)
