"""Accuracy against rounds and against bytes, one panel at a time.

Both functions take a table that is already filtered to one panel (one dataset, one partition, one value of
every other swept key), draw one line a method and return the ax; lines carry labels for a legend. Accuracy is
the mean over clients in each seed, or that of the global model where there is one; line and band are the mean and
its Student-t interval over seeds, from three on.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator
from matplotlib.transforms import ScaledTranslation, Transform

from analysis.drawing.style import INK, QUIET, Look, keep_within, labels, looks
from analysis.results import units
from analysis.results.values import cumulative_bytes, frozen_teachers, round_means, settings_of, start_rounds
from analysis.statistics.intervals import RATE, intervals

# Beyond this ratio of the dearest method to the cheapest point, a linear axis hides the cheap ones.
_LINEAR_UP_TO = 30
_MOST_BANDS = 6


def accuracy_against_rounds(
    table: pd.DataFrame,
    ax: Axes,
    *,
    split: str = "test",
    level: float = 0.95,
    styles: Mapping[str, Look] | None = None,
) -> Axes:
    """Mean accuracy at every round, round 0 being the common start.

    table: one panel, as `load` gives it. styles: looks by method where several panels are to agree. With one
    seed there is no band; with more than six methods the bands would hide each other, and bars to the right
    of the last round take their place. The x axis says "rounds (local epochs)" when some method's teachers
    are frozen: its knowledge travelled once, and later rounds are local training with it. A dotted vertical is the
    last round of a consolidated start.
    """
    styles = styles or looks(list(table["method"].unique()))
    names = labels(list(styles))
    curves = _curves(table, split, level)
    drawn = _in_order(curves, styles)
    for place, (method, curve) in enumerate(drawn):
        look, x = styles[method], curve["round"].to_numpy()
        _line(ax, x, curve, look, names[method])
        if curves["method"].nunique() > _MOST_BANDS:
            beyond = float(x[-1]) * (1.03 + 0.028 * place)
            _bar(ax, beyond, curve.iloc[-1], look, ax.transData, size=4.5)
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
    return _accuracy_axis(ax, split)


def accuracy_against_bytes(
    table: pd.DataFrame,
    ax: Axes,
    *,
    split: str = "test",
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
    styles = styles or looks(list(table["method"].unique()))
    names = labels(list(styles))
    curves = _curves(table, split, level)
    paid = curves[curves["bytes"] > 0]
    logarithmic = len(paid) > 0 and paid["bytes"].max() > _LINEAR_UP_TO * paid["bytes"].min()
    if len(paid):
        _bytes_axis(ax, paid["bytes"], logarithmic)
    place, number = 0, paid["method"].nunique()
    for method, curve in _in_order(curves, styles):
        look, final = styles[method], curve.iloc[-1]
        if final["bytes"] == 0:
            ax.axhline(final["mean"], color=look.color, linestyle=look.line, label=f"{names[method]} (sends nothing)")
            continue
        curve = curve[curve["bytes"] > 0] if logarithmic else curve
        aside = _aside(ax, place, number)
        place += 1
        x = curve["bytes"].to_numpy()
        new = np.flatnonzero(np.diff(x, prepend=-1) > 0)
        new = new[:: max(1, len(new) // 10)]
        _line(ax, x, curve, look, names[method], transform=aside, markevery=new.tolist())
        _bar(ax, float(final["bytes"]), final, look, aside)
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
    return _accuracy_axis(ax, split)


def _curves(table: pd.DataFrame, split: str, level: float) -> pd.DataFrame:
    """Columns method, round, mean, low, high, n and bytes (mean over seeds); sorted by method and round."""
    accuracy = round_means(table, split=split)
    method = settings_of(table)["method"]
    points = pd.DataFrame({"value": accuracy, "bytes": cumulative_bytes(table).reindex(accuracy.index)}).reset_index()
    points["method"] = points["federation"].map(method)
    keys = ["method", "round"]
    curves = intervals(points, keys, level=level, within=RATE)
    return curves.assign(bytes=points.groupby(keys)["bytes"].mean()).reset_index()


def _in_order(curves: pd.DataFrame, styles: Mapping[str, Look]) -> list[tuple[str, pd.DataFrame]]:
    found = set(curves["method"])
    return [(method, curves[curves["method"] == method]) for method in styles if method in found]


def _line(ax: Axes, x: Any, curve: pd.DataFrame, look: Look, label: str, **more: Any) -> None:
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


def _bar(ax: Axes, x: float, final: "pd.Series[Any]", look: Look, transform: Transform, size: float = 7) -> None:
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


def _aside(ax: Axes, place: int, number: int) -> Transform:
    """Data coordinates, shifted by a few points, so that `number` methods at one x stay apart."""
    step = min(3.5, 16 / number)
    shift = step * (place - (number - 1) / 2) / 72
    return ax.transData + ScaledTranslation(shift, 0, ax.figure.dpi_scale_trans)


def _accuracy_axis(ax: Axes, split: str) -> Axes:
    """An accuracy axis, which ends where accuracies do."""
    keep_within(ax, *RATE)
    ax.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.4g}"))
    ax.set_ylabel(f"{split} accuracy (%)")
    return ax


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
