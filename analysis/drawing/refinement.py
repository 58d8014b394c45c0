"""What was kept of a corpus and what that did: scores by domain and noise, loss against steps, loss against α.

Every drawing function draws one panel and returns the ax.
"""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.drawing.style import INK, Look, labels, looks
from analysis.results.values import round_means, settings_of
from analysis.statistics.intervals import intervals

TEXT_METRIC = "bits_per_byte"
"""What language models are measured by, and nothing else is."""
_AXIS = {TEXT_METRIC: "bits per byte on test", "loss": "loss on test, nats a token"}
_KEEP = re.compile(r"\bkeep=([0-9.eE+-]+)")
_BINS = 60


def group_names(column: "pd.Series[str]") -> list[str]:
    """The values of a column, sorted, as a legend has them: an empty one is called clean."""
    return [name or "clean" for name in sorted(set(column))]


def score_histogram(
    rows: pd.DataFrame, ax: Axes, *, by: str = "domain", styles: Mapping[str, Look] | None = None
) -> Axes:
    """How many chunks have which score, one line for each value of a column, with the lowest score that was kept.

    rows: columns score (nats a token), kept (bool) and `by`. styles: looks by name, where panels share a legend.
    """
    scores = rows["score"].to_numpy(dtype=np.float64)
    edges = np.linspace(scores.min(), max(scores.max(), scores.min() + 1e-6), _BINS + 1)
    styles = styles or looks(group_names(rows[by]))
    for name in group_names(rows[by]):
        look, mine = styles[name], rows[rows[by] == ("" if name == "clean" else name)]
        ax.stairs(
            np.histogram(mine["score"], edges)[0],
            edges,
            color=look.color,
            linestyle=look.line,
            linewidth=1.4,
            label=f"{name} ({100 * float(mine['kept'].mean()):.0f} % kept)",
        )
    if rows["kept"].any():
        ax.axvline(float(rows.loc[rows["kept"], "score"].min()), color=INK, linewidth=0.9, linestyle="--", zorder=1)
    ax.set_xlabel("score, nats a token")
    ax.set_ylabel("chunks")
    return ax


def steps_curves(table: pd.DataFrame, metric: str = TEXT_METRIC, split: str = "test") -> pd.DataFrame:
    """A row for each method and round: columns method, round, steps, mean, low and high of the metric over seeds.

    table: one panel, as `load` gives it. Steps are those since the start, mean over clients.
    """
    values = round_means(table, metric, split)
    own = table[(table["metric"] == "steps") & (table["client"] >= 0)]
    taken = own.groupby(["federation", "round"])["value"].mean().groupby(level="federation").cumsum()
    points = pd.DataFrame({"value": values, "steps": taken.reindex(values.index)}).reset_index()
    points["method"] = points["federation"].map(settings_of(table)["method"])
    keys = ["method", "round"]
    found = intervals(points, keys)
    return found.assign(steps=points.groupby(keys)["steps"].mean()).reset_index()


def loss_against_steps(
    curves: pd.DataFrame, ax: Axes, *, metric: str = TEXT_METRIC, styles: Mapping[str, Look] | None = None
) -> Axes:
    """Loss of every method against the optimiser steps so far; bars at the end are intervals over seeds.

    curves: as `steps_curves` gives them, of one panel. The untrained start is left out: beside it, all look alike.
    """
    styles = styles or looks(list(dict.fromkeys(str(name) for name in curves["method"])))
    names = labels(list(styles))
    shown = curves[curves["steps"] > 0]
    for method, look in styles.items():
        mine = shown[shown["method"] == method]
        if mine.empty:
            continue
        reach = np.zeros((2, len(mine)))
        reach[:, -1] = [mine["mean"].iloc[-1] - mine["low"].iloc[-1], mine["high"].iloc[-1] - mine["mean"].iloc[-1]]
        ax.errorbar(
            mine["steps"],
            mine["mean"],
            yerr=np.maximum(np.nan_to_num(reach), 0.0),
            color=look.color,
            linestyle=look.line,
            marker=look.marker,
            elinewidth=1.0,
            label=names[method],
        )
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    ax.set_xlabel("optimiser steps")
    ax.set_ylabel(_AXIS[metric])
    return ax


def keep_levels(curves: pd.DataFrame) -> pd.DataFrame:
    """The last round of methods that keep a share of the data: columns method, keep, mean, low and high.

    curves: as `steps_curves` gives them. The method is named without that share. Only methods of which two shares or
    more were run; sorted by share.
    """
    last = curves[curves["round"] == curves.groupby("method")["round"].transform("max")]
    named = last["method"].astype("str")
    share = named.map(lambda name: float(found[1]) if (found := _KEEP.search(name)) else np.nan)
    rest = named.map(
        lambda name: re.sub(r",?\s*\bkeep=[0-9.eE+-]+,?\s*", ", ", name).replace("(, ", "(").replace(", )", ")")
    )
    known = last.assign(keep=share, method=rest)[share.notna()]
    swept = known.groupby("method")["keep"].transform("nunique") >= 2
    rows: pd.DataFrame = known[swept].sort_values(["method", "keep"], kind="stable")
    return rows[["method", "keep", "mean", "low", "high"]].reset_index(drop=True)


def loss_against_keep(levels: pd.DataFrame, ax: Axes, *, metric: str = TEXT_METRIC) -> Axes:
    """Loss at the last round against α, the share of the data that was kept; bars are intervals over seeds.

    levels: as `keep_levels` gives them.
    """
    methods = list(dict.fromkeys(levels["method"]))
    styles, names = looks(methods), labels(methods)
    for method in methods:
        mine, look = levels[levels["method"] == method], styles[method]
        arms = [mine["mean"] - mine["low"], mine["high"] - mine["mean"]]
        ax.errorbar(
            mine["keep"],
            mine["mean"],
            yerr=np.maximum(np.nan_to_num(arms), 0.0),
            color=look.color,
            linestyle=look.line,
            marker=look.marker,
            elinewidth=1.0,
            label=names[method],
        )
    ax.set_xlabel("α, share kept")
    ax.set_ylabel(_AXIS[metric])
    return ax
