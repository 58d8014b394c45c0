"""Accuracy against the bytes that were sent."""

from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform

from analysis.drawing.curves import accuracy_axis, draw_end, draw_line, in_order, mean_curves
from analysis.drawing.picture import Sheet
from analysis.drawing.style import INK, Look, labels, looks
from analysis.figure import Block, Figure
from analysis.results import units
from analysis.results.evaluated import main_split


class AccuracyBytes(Figure):
    order = 20

    def sheets(self, block: Block) -> Iterator[Sheet]:
        yield Sheet(
            "Accuracy against communication",
            f"Mean {block.split} accuracy against the bytes sent so far by and to all clients, tuning included. "
            f"{block.summary.evaluated.curves}A point is a round, the large one the last round with its interval; "
            "methods are set a few pixels apart where costs agree. Dashed horizontals send "
            f"nothing, the dotted one is the start. {block.lines} {block.several}",
            block.curves(accuracy_against_bytes),
        )


# Beyond this ratio of the dearest method to the cheapest point, a linear axis hides the cheap ones.
_LINEAR_UP_TO = 30


def accuracy_against_bytes(
    table: pd.DataFrame,
    ax: Axes,
    *,
    split: str | None = None,
    level: float = 0.95,
    styles: Mapping[str, Look] | None = None,
) -> Axes:
    """Mean accuracy against what was sent so far, up and down, all clients, tuning included.

    A point is a round that sent something, its x the mean over seeds; the large point is the last round and
    carries the interval. Where knowledge travels once the curve goes up vertically, so methods are set a few
    pixels apart. Methods that send nothing are horizontal lines at their final accuracy. The axis is
    logarithmic when costs differ by more than a factor of 30; the start, at 0 bytes, is then outside, and a
    dotted line marks its accuracy.
    """
    split = split or main_split(table)
    styles = styles or looks(list(table["method"].unique()))
    names = labels(list(styles))
    curves = mean_curves(table, split, level)
    paid = curves[curves["bytes"] > 0]
    logarithmic = len(paid) > 0 and paid["bytes"].max() > _LINEAR_UP_TO * paid["bytes"].min()
    if len(paid):
        _bytes_axis(ax, paid["bytes"], logarithmic)
    index, number = 0, paid["method"].nunique()
    for method, curve in in_order(curves, styles):
        look, final = styles[method], curve.iloc[-1]
        if final["bytes"] == 0:
            ax.axhline(final["mean"], color=look.color, linestyle=look.line, label=f"{names[method]} (sends nothing)")
            continue
        curve = curve[curve["bytes"] > 0] if logarithmic else curve
        shifted = _shifted(ax, index, number)
        index += 1
        x = curve["bytes"].to_numpy()
        new = np.flatnonzero(np.diff(x, prepend=-1) > 0)
        new = new[:: max(1, len(new) // 10)]
        draw_line(ax, x, curve, look, names[method], transform=shifted, markevery=new.tolist())
        draw_end(ax, float(final["bytes"]), final, look, shifted)
    if len(paid):
        start = curves.loc[curves["round"] == 0, "mean"].mean()
        ax.axhline(start, color=INK, linewidth=0.8, linestyle=":", label="start (round 0)", zorder=1)
    else:
        ax.set_xticks([])
    # Autoscaling does not see through the shifts.
    seen = pd.concat([curves["mean"], *(curves.groupby("method")[edge].last() for edge in ("low", "high"))])
    margin = 0.05 * (seen.max() - seen.min()) or 0.01
    ax.set_ylim(seen.min() - margin, seen.max() + margin)
    ax.set_xlabel("bytes so far, all clients, up + down" if len(paid) else "no method sent anything")
    return accuracy_axis(ax, split)


def _shifted(ax: Axes, index: int, number: int) -> Transform:
    """Data coordinates, shifted by a few points, so that `number` methods at one x stay apart."""
    step = min(3.5, 16 / number)
    shift = step * (index - (number - 1) / 2) / 72
    return ax.transData + ScaledTranslation(shift, 0, ax.figure.dpi_scale_trans)


def _bytes_axis(ax: Axes, paid: "pd.Series[float]", logarithmic: bool) -> None:
    if logarithmic:
        ax.set_xscale("log", base=2)
        ax.set_xlim(paid.min() / 1.5, paid.max() * 1.5)
        ax.xaxis.set_major_locator(LogLocator(base=2, numticks=5))
    else:
        # Round numbers of KiB or MiB, which are no round numbers of bytes.
        unit = 1024 ** max(0, int(np.log2(max(paid.max(), 1)) // 10))
        ticks = MaxNLocator(4, steps=[1, 2, 4, 5, 10]).tick_values(0, paid.max() / unit) * unit
        ax.set_xticks(ticks[(ticks >= 0) & (ticks <= 1.05 * paid.max())])
        ax.set_xlim(-0.04 * paid.max(), 1.06 * paid.max())
    ax.xaxis.set_major_formatter(FuncFormatter(lambda number, _: units.size(max(number, 0.0))))
