"""What a method changed: knowledge gained and lost, and the net gain with its interval.

Both functions take the rows of one panel of a `Summary` (one block, one partition), draw one line a method,
in the order of the rows from top to bottom, and return the ax.
"""

from collections.abc import Iterable, Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.drawing.style import GAIN, INK, LOSS, QUIET, Look, keep_within, labels, looks
from analysis.results.units import NOTHING, percent, points
from analysis.statistics.intervals import CHANGE

LABEL = 22
"""Characters in a line of a method's label beside a row."""


def gained_and_lost(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Diverging bars: right, the share of test samples that went from wrong to right since the start; left,
    those that went from right to wrong. The diamond is their difference, Δ.

    rows: columns method, gained, lost, shares in [0, 1], as `compare` gives them.
    """
    y = np.arange(len(rows))
    for name, sign, colour in (("gained", 1, GAIN), ("lost", -1, LOSS)):
        share = rows[name].to_numpy(dtype=np.float64)
        ax.barh(y, sign * np.nan_to_num(share), color=colour, height=0.62, label=f"knowledge {name}")
        for place, value in zip(y, share, strict=True):
            ax.annotate(
                percent(value),
                (sign * np.nan_to_num(value), place),
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
    ax.set_xlabel("share of test samples, points")
    return ax


def delta_intervals(rows: pd.DataFrame, ax: Axes, *, styles: Mapping[str, Look] | None = None) -> Axes:
    """A dot and its interval for each method's Δ, the gain in mean test accuracy over the start.

    rows: columns method, delta, delta_low, delta_high, as `compare` gives them. With one seed there is no
    interval and the dot is hollow.
    """
    methods = [str(name) for name in rows["method"]]
    styles = styles or looks(methods)
    for place, (method, mean, low, high) in enumerate(
        zip(methods, rows["delta"], rows["delta_low"], rows["delta_high"], strict=True)
    ):
        look, known = styles[method], not np.isnan(low)
        if known:
            ax.plot([low, high], [place, place], color=look.color, linewidth=2.2, solid_capstyle="round")
        face = look.color if known else "white"
        ax.plot(
            [mean],
            [place],
            marker="o",
            markersize=7,
            color=look.color,
            markerfacecolor=face,
            linestyle="none",
        )
        ax.annotate(
            points(mean) if not np.isnan(mean) else NOTHING,
            (0.0 if np.isnan(mean) else mean, place),
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
    ax.set_xlabel("Δ test accuracy since the start, points")
    return ax


def rows_height(methods: Iterable[object]) -> float:
    """Inches of a panel with a row for each of these methods, so that their labels keep apart."""
    names = [str(method) for method in methods]
    lines = max((text.count("\n") + 1 for text in labels(names, width=LABEL).values()), default=1)
    return 0.9 + len(names) * max(0.42, 0.165 * lines)


def method_axis(ax: Axes, rows: pd.DataFrame, points_across: bool = True) -> None:
    """Methods down, in the order of the rows; differences of shares across, in points."""
    methods = [str(name) for name in rows["method"]]
    names = labels(methods, width=LABEL)
    ax.set_yticks(range(len(methods)), [names[method] for method in methods])
    ax.set_ylim(len(methods) - 0.4, -0.7)
    ax.grid(visible=False, axis="y")
    ax.spines["left"].set_visible(False)
    ax.xaxis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
    if points_across:
        ax.xaxis.set_major_formatter(FuncFormatter(in_points))


def in_points(value: float, _: object = None) -> str:
    """A tick of an axis of shares: −0.025 → `−2.5`; none where no share, nor a change of one, can be."""
    return "" if abs(value) > 1 else f"{100 * value:.4g}".replace("-", "−")
