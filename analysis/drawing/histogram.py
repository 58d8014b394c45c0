"""How many chunks of a corpus have which score."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.style import INK, Look, looks

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
        look, part = styles[name], rows[rows[by] == ("" if name == "clean" else name)]
        ax.stairs(
            np.histogram(part["score"], edges)[0],
            edges,
            color=look.color,
            linestyle=look.line,
            linewidth=1.4,
            label=f"{name} ({100 * float(part['kept'].mean()):.0f} % kept)",
        )
    if rows["kept"].any():
        ax.axvline(float(rows.loc[rows["kept"], "score"].min()), color=INK, linewidth=0.9, linestyle="--", zorder=1)
    ax.set_xlabel("score, nats a token")
    ax.set_ylabel("chunks")
    return ax
