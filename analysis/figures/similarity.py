"""Similarities of classes, as heat maps."""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes

from analysis.drawing.heatmap import heat_map
from analysis.drawing.picture import Panel, Sheet, slug
from analysis.drawing.style import labels
from analysis.figure import Block, Figure
from analysis.measures.similarity import similarity_matrix
from analysis.results.metrics import family_rows


class Similarity(Figure):
    order = 30
    of_study = True

    def sheets(self, block: Block) -> Iterator[Sheet]:
        """One sheet a data set, a panel for each partition and method that measured similarities."""
        rows = family_rows(block.table, "similarity")
        classes = {str(split["dataset"]): [str(name) for name in split.get("classes") or ()] for split in block.splits}
        several = rows["dataset"].nunique() > 1
        for dataset, mine in rows.groupby("dataset", sort=False, observed=True):
            panels = _panels(block, mine, classes.get(str(dataset)) or None)
            cut = f" The first {MOST_PANELS} of {len(panels)} panels." if len(panels) > MOST_PANELS else ""
            yield Sheet(
                f"How alike classes are: {block.name('dataset', str(dataset))}",
                "Mean cosine between an autoencoder's embeddings of samples of two classes; on the diagonal, of "
                f"different samples of one. Mean over the federations of a panel; each panel has its own colours.{cut}",
                panels[:MOST_PANELS],
                part=slug(str(dataset)) if several else "",
                width=4.4,
                height=4.4,
                legend=False,
                same_rows=True,
            )


MOST_PANELS = 12


def _panels(block: Block, rows: pd.DataFrame, names: Sequence[str] | None) -> list[Panel]:
    """A panel for each partition and method; methods that differ in what they make of the similarities share one."""
    panels: list[Panel] = []
    one = rows["method"].nunique() == 1
    drawn: set[tuple[str, bytes]] = set()
    for (partition, method), part in rows.groupby(["partition", "method"], sort=False, observed=True):
        content = (str(partition), similarity_matrix(part).round(9).tobytes())
        if content not in drawn:
            drawn.add(content)
            title = block.name("partition", str(partition))
            title = title if one else f"{title} · {block.name('method', str(method))}"
            panels.append((title, partial(similarity_heatmap, part, names=names)))
    return panels


_MOST_NUMBERS = 14


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
    texts = np.vectorize(_two_digits, otypes=[object])(matrix) if len(matrix) <= _MOST_NUMBERS else None
    shades: dict[str, Any] = {"cmap": "cividis", "vmin": low, "vmax": low + span, "aspect": "equal"}
    heat_map(matrix, ax, texts=texts, on_dark=(matrix - low) / span < 0.55, fontsize=6.5, **shades)
    short = labels(names, width=12, lines=1)
    shown = [short[name] for name in names]
    ax.set_xticks(range(len(names)), shown)
    ax.set_yticks(range(len(names)), shown)
    if max(map(len, shown)) > 2:
        ax.tick_params(axis="x", rotation=90)
    return ax


def _two_digits(value: float) -> str:
    return "" if np.isnan(value) else f"{value:.2f}".replace("-", "−")
