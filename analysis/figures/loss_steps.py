"""Loss of language models against steps."""

from collections.abc import Iterator, Mapping
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from analysis.drawing.picture import Sheet
from analysis.drawing.style import Look, labels, looks
from analysis.figure import Block, Figure
from analysis.measures.refinement import steps_curves
from analysis.results.metrics import TEXT


class LossSteps(Figure):
    order = 160

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if not block.results or TEXT.name not in set(block.table["metric"]):
            return
        curves = {name: steps_curves(part) for name, part in block.measured.items()}
        draw = partial(loss_against_steps, styles=block.styles, split=block.split)
        yield Sheet(
            "Loss against steps",
            f"Bits per byte of the {block.split} text after so many optimiser steps, mean over clients and seeds; "
            f"bars at the end: intervals over seeds. The start is left out. {block.summary.evaluated.gaps}".strip(),
            [
                (block.name("partition", name), partial(draw, block.shown(each)))
                for name, each in curves.items()
                if len(each)
            ],
            width=4.0,
            height=3.4,
        )


def loss_against_steps(
    curves: pd.DataFrame, ax: Axes, *, styles: Mapping[str, Look] | None = None, split: str = "test"
) -> Axes:
    """Loss of every method against the optimiser steps so far; bars at the end are intervals over seeds.

    curves: as `steps_curves` gives them, of one panel. The untrained start is left out: beside it, all look alike.
    """
    styles = styles or looks(list(dict.fromkeys(str(name) for name in curves["method"])))
    names = labels(list(styles))
    shown = curves[curves["steps"] > 0]
    for method, look in styles.items():
        part = shown[shown["method"] == method]
        if part.empty:
            continue
        reach = np.zeros((2, len(part)))
        reach[:, -1] = [part["mean"].iloc[-1] - part["low"].iloc[-1], part["high"].iloc[-1] - part["mean"].iloc[-1]]
        ax.errorbar(
            part["steps"],
            part["mean"],
            yerr=np.maximum(np.nan_to_num(reach), 0.0),
            color=look.color,
            linestyle=look.line,
            marker=look.marker,
            elinewidth=1.0,
            label=names[method],
        )
    ax.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    ax.set_xlabel("optimiser steps")
    ax.set_ylabel(f"{TEXT.label} on {split}")
    return ax
