"""Gain of every architecture."""

from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.picture import Sheet
from analysis.drawing.rows import method_axis
from analysis.drawing.style import QUIET, Look, labels, looks
from analysis.figure import Block, Figure
from analysis.measures.breakdown import model_scores


class Models(Figure):
    order = 180

    def sheets(self, block: Block) -> Iterator[Sheet]:
        models = model_scores(block.table, block.summary.level) if block.results else pd.DataFrame()
        if models.empty:
            return
        styles = looks(list(dict.fromkeys(str(name) for name in models["model"])))
        yield Sheet(
            "Gain of every architecture",
            f"Δ {block.split} accuracy of the clients that hold each model, mean over them, with the interval over "
            "seeds.",
            block.panels(gain_by_model, models, styles=styles, split=block.split),
            width=4.0,
            height=block.height,
            same_x=True,
        )


def gain_by_model(
    rows: pd.DataFrame, ax: Axes, *, styles: Mapping[str, Look] | None = None, split: str = "test"
) -> Axes:
    """Δ of each architecture of a heterogeneous federation under every method, with intervals over seeds.

    rows: columns method, model, delta, delta_low, delta_high, as `breakdown.model_scores` gives them, of one panel.
    styles: looks by model.
    """
    methods, models = (list(dict.fromkeys(str(name) for name in rows[key])) for key in ("method", "model"))
    styles = styles or looks(models)
    names = labels(models)
    for index, model in enumerate(models):
        part = rows[rows["model"] == model]
        at = np.array([methods.index(str(name)) for name in part["method"]]) + _shift(index, models)
        low, high = (part["delta"] - part["delta_low"], part["delta_high"] - part["delta"])
        ax.errorbar(
            part["delta"],
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
    ax.set_xlabel(f"Δ {split} accuracy since round 0, points")
    return ax


def _shift(index: int, models: Sequence[str]) -> float:
    return 0.5 * (index - (len(models) - 1) / 2) / max(len(models), 2)
