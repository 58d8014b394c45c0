"""Loss of language models against the share of the data that was kept."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.picture import Sheet
from analysis.drawing.style import labels, looks
from analysis.figure import Block, Figure
from analysis.measures.refinement import keep_levels, steps_curves
from analysis.results.metrics import TEXT


class LossKeep(Figure):
    order = 170

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if not block.results or TEXT.name not in set(block.table["metric"]):
            return
        levels = {name: keep_levels(steps_curves(part)) for name, part in block.measured.items()}
        if any(len(each) for each in levels.values()):
            yield Sheet(
                "Loss against the share kept",
                f"Bits per byte of the {block.split} text at the last round against α, the share of the data that was "
                "learnt from, mean over clients and seeds; bars: intervals over seeds.",
                [
                    (block.name("partition", name), partial(loss_against_keep, each, split=block.split))
                    for name, each in levels.items()
                    if len(each)
                ],
                width=4.0,
                height=3.4,
            )


def loss_against_keep(levels: pd.DataFrame, ax: Axes, *, split: str = "test") -> Axes:
    """Loss at the last round against α, the share of the data that was kept; bars are intervals over seeds.

    levels: as `keep_levels` gives them.
    """
    methods = list(dict.fromkeys(levels["method"]))
    styles, names = looks(methods), labels(methods)
    for method in methods:
        part, look = levels[levels["method"] == method], styles[method]
        arms = [part["mean"] - part["low"], part["high"] - part["mean"]]
        ax.errorbar(
            part["keep"],
            part["mean"],
            yerr=np.maximum(np.nan_to_num(arms), 0.0),
            color=look.color,
            linestyle=look.line,
            marker=look.marker,
            elinewidth=1.0,
            label=names[method],
        )
    ax.set_xlabel("α, share kept")
    ax.set_ylabel(f"{TEXT.label} on {split}")
    return ax
