"""How alike classes are, where a method has measured it: one heat map for each partition and method."""

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes

from analysis.drawing.picture import Panel, Picture, picture, slug
from analysis.drawing.style import INK, labels

SIMILARITY = "similarity/"
"""Metrics of two classes, by number, start with this: `similarity/0/3`."""
_MOST_NUMBERS = 14


def similarity_matrix(table: pd.DataFrame) -> "np.ndarray[Any, np.dtype[np.float64]]":
    """(classes, classes) similarities, symmetric, mean over the federations of a table as `load` gives it.

    Each two classes are measured once, under the lower number first. NaN where nothing is known. Raises ValueError
    where the table holds no similarities.
    """
    rows = table[table["metric"].astype("str").str.startswith(SIMILARITY)]
    if rows.empty:
        raise ValueError(f"similarity_matrix needs rows of a metric that starts with {SIMILARITY!r}, found none")
    each = rows.groupby(rows["metric"].astype("str"))["value"].mean()
    pairs = [tuple(map(int, name.removeprefix(SIMILARITY).split("/"))) for name in each.index]
    classes = 1 + max(map(max, pairs))
    matrix = np.full((classes, classes), np.nan)
    for (a, b), value in zip(pairs, each, strict=True):
        matrix[a, b] = matrix[b, a] = value
    return matrix


def similarity_heatmap(frame: pd.DataFrame, ax: Axes, *, names: Sequence[str] | None = None) -> Axes:
    """Mean cosine of the embeddings of every two classes, and of each class with itself.

    frame: rows of one panel, as `load` gives them. names: of the classes, in their order; by default their numbers.
    Colours run from the lowest to the highest value of the panel, because embeddings that hold no negative number are
    all alike to a degree; cells hold the values up to 14 classes. Raises ValueError where there are no similarities,
    or other than one name a class.
    """
    matrix = similarity_matrix(frame)
    names = list(names) if names is not None else [str(number) for number in range(len(matrix))]
    if len(names) != len(matrix):
        raise ValueError(f"similarity_heatmap: {len(names)} names for {len(matrix)} classes")
    low, high = float(np.nanmin(matrix)), float(np.nanmax(matrix))
    span = high - low or 1.0
    ax.imshow(matrix, cmap=colormaps["cividis"], vmin=low, vmax=low + span, aspect="equal")
    if len(matrix) <= _MOST_NUMBERS:
        for (row, column), value in np.ndenumerate(matrix):
            if not np.isnan(value):
                ink = "white" if (value - low) / span < 0.55 else INK
                text = f"{value:.2f}".replace("-", "−")
                ax.text(column, row, text, ha="center", va="center", fontsize=6.5, color=ink)
    short = labels(names, width=12, lines=1)
    shown = [short[name] for name in names]
    ax.set_xticks(range(len(names)), shown)
    ax.set_yticks(range(len(names)), shown)
    if max(map(len, shown)) > 2:
        ax.tick_params(axis="x", rotation=90)
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    return ax


def draw_similarities(
    table: pd.DataFrame, partitions: Sequence[Mapping[str, Any]], folder: Path, *, most: int = 12
) -> list[Picture]:
    """One figure a data set, a panel for each partition and method that measured similarities, at most `most`.

    table: the whole study, as `load` gives it. partitions: entries of study.json, which know the names of the classes.
    Files go to `folder`.
    """
    rows = table[table["metric"].astype("str").str.startswith(SIMILARITY)]
    named = {str(entry["dataset"]): [str(name) for name in entry.get("classes") or ()] for entry in partitions}
    several = rows["dataset"].nunique() > 1
    drawn = []
    for dataset, mine in rows.groupby("dataset", sort=False, observed=True):
        parts: list[Panel] = []
        one = mine["method"].nunique() == 1
        shown: set[tuple[str, bytes]] = set()
        for (partition, method), part in mine.groupby(["partition", "method"], sort=False, observed=True):
            # Methods that differ in what they make of the similarities share them.
            content = (str(partition), similarity_matrix(part).round(9).tobytes())
            if content in shown:
                continue
            shown.add(content)
            names = named.get(str(dataset)) or None
            title = str(partition) if one else f"{partition} · {method}"
            parts.append((title, partial(similarity_heatmap, part, names=names)))
        cut = f" The first {most} of {len(parts)} panels." if len(parts) > most else ""
        drawn.append(
            picture(
                f"similarity-{slug(str(dataset))}" if several else "similarity",
                f"How alike classes are: {dataset}",
                "Mean cosine between an autoencoder's embeddings of samples of two classes; on the diagonal, of "
                f"different samples of one. Mean over the federations of a panel; each panel has its own colours.{cut}",
                parts[:most],
                folder,
                width=4.4,
                height=4.4,
                legend=False,
                same_rows=True,
            )
        )
    return drawn
