"""What became of unreliable teachers: which samples were distilled, and accuracy against their noise.

Every drawing function draws one panel and returns the ax.
"""

import re
from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis.drawing.gains import method_axis
from analysis.drawing.style import GAIN, LOSS, Look, keep_within, labels, looks
from analysis.results.units import percent
from analysis.statistics.intervals import RATE

_PARTS = {
    "right": ("distilled, teacher right", GAIN, 1.0),
    "wrong": ("distilled, teacher wrong", LOSS, 1.0),
    "revised": ("distilled, revised", "#e69f00", 1.0),
    "left_wrong": ("left out, teacher wrong", LOSS, 0.25),
    "left_right": ("left out, teacher right", GAIN, 0.25),
}
_NOISE = re.compile(r"label_noise\([^)]*\brate=([0-9.eE+-]+)")


def taught_shares(table: pd.DataFrame) -> pd.DataFrame:
    """One row for each partition and method that revises or selects: the shares `right`, `wrong`, `revised`,
    `left_right` and `left_wrong` of all samples of the transfer set, which add up to 1.

    Means over clients and rounds, then over seeds. "Wrong" is the teacher's arg max before any revision. Empty where
    nothing was revised or selected, or the labels were not known.
    """
    named = ["teacher_wrong", "selected", "selected_wrong", "revised"]
    rows = table[table["metric"].isin(named) & (table["client"] >= 0)]
    keys = ["partition", "method"]
    if not (rows["metric"] == "teacher_wrong").any():
        return pd.DataFrame(columns=[*keys, *_PARTS])
    each = rows.groupby([*keys, "seed", "metric"], sort=False, observed=True)["value"].mean().unstack("metric")
    mean = each.groupby(level=keys, sort=False).mean().reindex(columns=named).dropna(subset="teacher_wrong")
    selected = mean["selected"].fillna(1.0)
    wrong = mean["selected_wrong"].fillna(mean["teacher_wrong"])
    is_revised = mean["revised"].notna()
    frame = pd.DataFrame(
        {
            "right": selected - wrong,
            "wrong": wrong.where(~is_revised, 0.0),
            "revised": wrong.where(is_revised, 0.0),
            "left_wrong": mean["teacher_wrong"] - wrong,
            "left_right": 1 - selected - (mean["teacher_wrong"] - wrong),
        }
    )
    return frame.reset_index()


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


def noise_levels(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows with a column `noise`, the rate of wrong labels that their partition names, 0 where it names none.

    Only partitions that differ in nothing but that rate are kept: those of the first, and so none but it where others
    differ otherwise.
    """
    named = rows["partition"].astype("str")
    rate = named.map(lambda name: float(found[1]) if (found := _NOISE.search(name)) else 0.0)
    rest = named.map(lambda name: re.sub(r"\+?label_noise\([^)]*\)", "", name))
    known: pd.DataFrame = rows.assign(noise=rate)[rest == rest.iloc[0]]
    return known.sort_values("noise", kind="stable")


def accuracy_against_noise(rows: pd.DataFrame, ax: Axes, *, styles: Mapping[str, Look] | None = None) -> Axes:
    """Final accuracy of every method against the rate of wrong labels, with intervals over seeds.

    rows: columns noise, method, accuracy, accuracy_low, accuracy_high, as `noise_levels` gives them.
    """
    methods = list(dict.fromkeys(str(name) for name in rows["method"]))
    styles = styles or looks(methods)
    names = labels(methods)
    width = float(rows["noise"].max() - rows["noise"].min()) or 1.0
    for place, method in enumerate(methods):
        mine, look = rows[rows["method"] == method], styles[method]
        arms = [mine["accuracy"] - mine["accuracy_low"], mine["accuracy_high"] - mine["accuracy"]]
        # Side by side, so that bars at the same noise do not hide each other.
        aside = 0.008 * width * (place - (len(methods) - 1) / 2)
        ax.errorbar(
            mine["noise"] + aside,
            mine["accuracy"],
            yerr=np.nan_to_num(np.maximum(arms, 0.0)),
            color=look.color,
            linestyle=look.line,
            marker=look.marker,
            markersize=5,
            elinewidth=1.0,
            label=names[method],
        )
    ax.set_xticks(sorted(set(rows["noise"])))
    for axis in (ax.xaxis, ax.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda share, _: percent(share, 0)))
    keep_within(ax, *RATE)
    ax.set_xlabel("wrong labels of noisy clients (%)")
    ax.set_ylabel("test accuracy (%)")
    return ax
