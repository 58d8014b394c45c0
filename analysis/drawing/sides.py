"""What else changed beside mean accuracy: single classes, single clients, single models, calibration, forgetting.

Every function draws one panel, methods in the order of their rows, and returns the ax.
"""

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FuncFormatter, MaxNLocator

from analysis.drawing.gains import in_points, method_axis
from analysis.drawing.style import GAIN, INK, LOSS, QUIET, Look, keep_within, labels, looks
from analysis.statistics.intervals import CHANGE, RATE

# Vermilion to blue is told apart with every common colour blindness, and the palest grey is no change.
FALL_TO_RISE = LinearSegmentedColormap.from_list("change", [LOSS, "#f3f4f6", GAIN])
_SHARES = ("agreement", "teacher_accuracy", "ece")
_MOST_NUMBERS = 14
_MOST_DOTS = 120


def class_changes(rows: pd.DataFrame, ax: Axes, *, limit: float | None = None) -> Axes:
    """Δ accuracy of every class, methods down and classes across, in points; pale grey is no change.

    rows: columns method, class, delta, as `breakdown.class_scores` gives them, of one panel. limit: the change at
    which the colours end, for panels that are to agree; by default the largest one here. Cells hold numbers up to
    14 classes.
    """
    methods, classes = (list(dict.fromkeys(rows[name])) for name in ("method", "class"))
    grid = rows.pivot(index="method", columns="class", values="delta").loc[methods, classes].to_numpy(dtype=np.float64)
    most = limit or float(np.nanmax(np.abs(grid), initial=0.0)) or 0.01
    ax.imshow(grid, cmap=FALL_TO_RISE, vmin=-most, vmax=most, aspect="auto")
    if len(classes) <= _MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(grid):
            if not np.isnan(value):
                ink = "white" if abs(value) > 0.75 * most else INK
                text = f"{100 * value:+.0f}".replace("-", "−") if round(100 * value) else "0"
                ax.text(column, row, text, ha="center", va="center", fontsize=7.5, color=ink)
    step = max(1, -(-len(classes) // 20))
    short = labels([str(name) for name in classes], width=10, lines=1)
    ax.set_xticks(range(0, len(classes), step), [short[str(name)] for name in classes[::step]])
    if max(map(len, short.values())) > 3:
        ax.tick_params(axis="x", rotation=60)
    names = labels([str(name) for name in methods], width=22)
    ax.set_yticks(range(len(methods)), [names[str(name)] for name in methods])
    ax.grid(visible=False)
    for number in range(1, len(methods)):
        ax.axhline(number - 0.5, color="white", linewidth=2)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    ax.set_xlabel("class")
    return ax


def gain_against(
    rows: pd.DataFrame,
    ax: Axes,
    column: str,
    label: str,
    *,
    styles: Mapping[str, Look] | None = None,
) -> Axes:
    """Δ of every method against another of its scores, both with intervals where they have some.

    rows: columns method, delta, delta_low, delta_high and `column`, with `column`_low and _high where there is an
    interval, as `compare` gives them. label: of the x axis. Methods without the score are left out.
    """
    known = rows[rows[column].notna() & rows["delta"].notna()]
    styles = styles or looks([str(name) for name in rows["method"]])
    names = labels([str(name) for name in rows["method"]])
    for place, row in enumerate(known.to_dict("records")):
        look, method = styles[str(row["method"])], str(row["method"])
        ax.errorbar(
            row[column],
            row["delta"],
            xerr=_reach(row[column], row.get(f"{column}_low"), row.get(f"{column}_high")),
            yerr=_reach(row["delta"], row["delta_low"], row["delta_high"]),
            color=look.color,
            marker=look.marker,
            # Later ones are smaller, so that methods on one spot are all seen.
            markersize=max(9 - 0.7 * place, 5),
            markeredgecolor="white" if look.marker != "x" else None,
            elinewidth=1.0,
            linestyle="none",
            label=names[method],
        )
    ax.axhline(0, color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
    if ax.get_xlim()[0] < 0 < ax.get_xlim()[1]:
        ax.axvline(0, color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_locator(MaxNLocator(5, steps=[1, 2, 5, 10]))
        axis.set_major_formatter(FuncFormatter(in_points))
    keep_within(ax, *(RATE if column in _SHARES else CHANGE), across=True)
    keep_within(ax, *CHANGE)
    ax.set_xlabel(label)
    ax.set_ylabel("Δ test accuracy, points")
    return ax


def client_spread(gains: pd.DataFrame, ax: Axes, *, styles: Mapping[str, Look] | None = None) -> Axes:
    """The Δ of every client in every seed: a dot each, and a box from the first to the third quartile with the
    median; whiskers reach the worst and the best client. The mean alone hides who pays for it.

    gains: columns method, delta, as `breakdown.client_gains` gives them, of one panel. Above 120 dots a method, the
    box stands alone.
    """
    methods = list(dict.fromkeys(str(name) for name in gains["method"]))
    styles = styles or looks(methods)
    for place, method in enumerate(methods):
        values = gains.loc[gains["method"] == method, "delta"].to_numpy(dtype=np.float64)
        least, first, middle, third, most = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
        colour = styles[method].color
        ax.plot([least, most], [place, place], color=colour, linewidth=1.0)
        ax.barh(place, third - first, left=first, height=0.5, color=colour, alpha=0.22, edgecolor=colour)
        ax.plot([middle, middle], [place - 0.25, place + 0.25], color=colour, linewidth=2.2)
        if len(values) <= _MOST_DOTS:
            # Spread by rank, not by chance: equal results give equal files.
            aside = 0.16 * (np.argsort(np.argsort(values, kind="stable")) % 5 - 2) / 2
            ax.plot(values, place + aside, marker="o", markersize=2.6, alpha=0.65, color=colour, linestyle="none")
    ax.axvline(0, color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
    method_axis(ax, pd.DataFrame({"method": methods}))
    ax.set_xlabel("Δ test accuracy of each client, points")
    return ax


def calibration_bars(rows: pd.DataFrame, ax: Axes) -> Axes:
    """Expected calibration error of every method, the bar at the last round with its interval, the tick at round 0;
    shorter is better.

    rows: columns method, ece, ece_low, ece_high, start_ece, as `compare` gives them.
    """
    place = np.arange(len(rows))
    share = np.nan_to_num(rows["ece"].to_numpy(dtype=np.float64))
    ax.barh(place, share, height=0.55, color=GAIN, label="last round")
    for at, row in zip(place, rows.to_dict("records"), strict=True):
        if (reach := _reach(row["ece"], row["ece_low"], row["ece_high"])) is not None:
            ax.errorbar(row["ece"], at, xerr=reach, color=INK, elinewidth=1.1, capsize=2.5)
    ax.plot(rows["start_ece"], place, marker="|", markersize=15, markeredgewidth=2, color=LOSS, linestyle="none")
    ax.plot([], [], marker="|", markersize=10, markeredgewidth=2, color=LOSS, linestyle="none", label="round 0")
    method_axis(ax, rows)
    ax.set_xlim(0, min(1.05 * max(ax.get_xlim()[1], 0.01), 1.0))
    ax.set_xlabel("expected calibration error, points")
    return ax


def gain_by_model(rows: pd.DataFrame, ax: Axes, *, styles: Mapping[str, Look] | None = None) -> Axes:
    """Δ of each architecture of a heterogeneous federation under every method, with intervals over seeds.

    rows: columns method, model, delta, delta_low, delta_high, as `breakdown.model_scores` gives them, of one panel.
    styles: looks by model.
    """
    methods, models = (list(dict.fromkeys(str(name) for name in rows[key])) for key in ("method", "model"))
    styles = styles or looks(models)
    names = labels(models)
    for place, model in enumerate(models):
        mine = rows[rows["model"] == model]
        at = np.array([methods.index(str(name)) for name in mine["method"]]) + _shift(place, models)
        low, high = (mine["delta"] - mine["delta_low"], mine["delta_high"] - mine["delta"])
        ax.errorbar(
            mine["delta"],
            at,
            xerr=np.nan_to_num(np.maximum([low, high], 0.0)),
            color=styles[model].color,
            marker=styles[model].marker,
            markersize=6,
            elinewidth=1.4,
            linestyle="none",
            label=names[model],
        )
    ax.axvline(0, color=QUIET, linewidth=0.9, linestyle="--", zorder=1)
    method_axis(ax, pd.DataFrame({"method": methods}))
    ax.set_xlabel("Δ test accuracy since round 0, points")
    return ax


def _shift(place: int, models: Sequence[str]) -> float:
    return 0.5 * (place - (len(models) - 1) / 2) / max(len(models), 2)


def _reach(value: float, low: float | None, high: float | None) -> list[list[float]] | None:
    """The two arms of an error bar, or nothing where there is no interval."""
    if low is None or high is None or np.isnan(low) or np.isnan(high):
        return None
    return [[max(value - low, 0.0)], [max(high - value, 0.0)]]
