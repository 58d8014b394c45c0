"""Accuracy against the noise of the teachers."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter

from analysis.drawing.picture import Sheet
from analysis.drawing.style import Look, keep_within, labels, looks
from analysis.figure import Block, Figure
from analysis.measures.teaching import noise_levels
from analysis.results.units import percent
from analysis.statistics.intervals import RATE


class Noise(Figure):
    order = 150

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if not block.results:
            return
        levels = noise_levels(pd.concat(block.results.values()))
        if levels["noise"].nunique() < 3:
            return
        yield Sheet(
            "Accuracy against teacher noise",
            f"{block.split.capitalize()} accuracy at the last round against the share of wrong labels that the noisy "
            "clients were trained on, mean over clients and seeds; bars: intervals over seeds.",
            [
                (
                    "all partitions",
                    partial(accuracy_against_noise, block.shown(levels), styles=block.styles, split=block.split),
                )
            ],
            width=5.0,
            height=3.4,
        )


def accuracy_against_noise(
    rows: pd.DataFrame, ax: Axes, *, styles: Mapping[str, Look] | None = None, split: str = "test"
) -> Axes:
    """Final accuracy of every method against the rate of wrong labels, with intervals over seeds.

    rows: columns noise, method, accuracy, accuracy_low, accuracy_high, as `noise_levels` gives them.
    """
    methods = list(dict.fromkeys(str(name) for name in rows["method"]))
    styles = styles or looks(methods)
    names = labels(methods)
    width = float(rows["noise"].max() - rows["noise"].min()) or 1.0
    for index, method in enumerate(methods):
        part, look = rows[rows["method"] == method], styles[method]
        arms = [part["accuracy"] - part["accuracy_low"], part["accuracy_high"] - part["accuracy"]]
        # Side by side, so that bars at the same noise do not hide each other.
        offset = 0.008 * width * (index - (len(methods) - 1) / 2)
        ax.errorbar(
            part["noise"] + offset,
            part["accuracy"],
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
    ax.set_ylabel(f"{split} accuracy (%)")
    return ax
