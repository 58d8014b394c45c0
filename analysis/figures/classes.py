"""Change of every class."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap

from analysis.drawing.heatmap import heat_map
from analysis.drawing.picture import Sheet
from analysis.drawing.style import GAIN, LOSS, labels
from analysis.figure import NOTABLE, Block, Figure
from analysis.measures.breakdown import class_scores
from analysis.results.metrics import members

WIDE = 30
"""With more classes, a panel of them takes a figure of its own."""


class Classes(Figure):
    order = 80

    def sheets(self, block: Block) -> Iterator[Sheet]:
        if not block.results or not members(block.table["metric"].unique(), "accuracy"):
            return
        classes = class_scores(block.table)
        limit = float(classes["delta"].abs().max())
        panels = block.panels(class_changes, classes, limit=limit)
        # The limit is NaN where no class was measured at both ends.
        if not panels or not limit >= NOTABLE:
            return
        wide = classes["class"].nunique() > WIDE
        for number, part in enumerate([[panel] for panel in panels] if wide else [panels], start=1):
            yield Sheet(
                "Change of every class",
                f"Δ {block.split} accuracy of each class between the start and the last round, in points, mean over "
                "clients and seeds; blue rose, vermilion fell. Colours agree between panels.",
                part,
                part=str(number) if wide and len(panels) > 1 else "",
                height=block.height,
                width=11.0 if wide else 4.0,
                legend=False,
                same_rows=True,
            )


# Vermilion to blue is told apart with every common colour blindness, and the palest grey is no change.
FALL_TO_RISE = LinearSegmentedColormap.from_list("change", [LOSS, "#f3f4f6", GAIN])
_MOST_NUMBERS = 14


def class_changes(rows: pd.DataFrame, ax: Axes, *, limit: float | None = None) -> Axes:
    """Δ accuracy of every class, methods down and classes across, in points; pale grey is no change.

    rows: columns method, class, delta, as `breakdown.class_scores` gives them, of one panel. limit: the change at
    which the colours end, for panels that are to agree; by default the largest one here. Cells hold numbers up to
    14 classes.
    """
    methods, classes = (list(dict.fromkeys(rows[name])) for name in ("method", "class"))
    grid = rows.pivot(index="method", columns="class", values="delta").loc[methods, classes].to_numpy(dtype=np.float64)
    most = limit or float(np.nanmax(np.abs(grid), initial=0.0)) or 0.01
    texts = np.vectorize(_points, otypes=[object])(grid) if len(classes) <= _MOST_NUMBERS else None
    heat_map(grid, ax, texts=texts, on_dark=np.abs(grid) > 0.75 * most, cmap=FALL_TO_RISE, vmin=-most, vmax=most)
    step = max(1, -(-len(classes) // 20))
    short = labels([str(name) for name in classes], width=10, lines=1)
    ax.set_xticks(range(0, len(classes), step), [short[str(name)] for name in classes[::step]])
    if max(map(len, short.values())) > 3:
        ax.tick_params(axis="x", rotation=60)
    names = labels([str(name) for name in methods], width=22)
    ax.set_yticks(range(len(methods)), [names[str(name)] for name in methods])
    for number in range(1, len(methods)):
        ax.axhline(number - 0.5, color="white", linewidth=2)
    ax.set_xlabel("class")
    return ax


def _points(change: float) -> str:
    """A change in whole points, with its sign; nothing where it is not known."""
    if np.isnan(change):
        return ""
    return f"{100 * change:+.0f}".replace("-", "−") if round(100 * change) else "0"
