"""One split in the terminal and as a picture, for `fedkd partition`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from analysis.drawing.partitions import PICTURES
from analysis.drawing.style import legend_below, panels, styled, wrap
from analysis.results.files import replacing
from partitions.split import Split

MOST_CLIENTS, MOST_CLASSES = 40, 12
"""Most rows and columns in the terminal; the manifest has all."""


def table(split: Split, counts: NDArray[np.int64], classes: Sequence[str]) -> Table:
    """One row a client: sizes, measures of skew and, for few classes, the samples of each."""
    made = Table(title=f"{split.strategy} on {split.dataset}, seed {split.seed}", title_justify="left")
    for name in ("client", "samples", "local test", "classes", "entropy", "distance"):
        made.add_column(name, justify="right")
    shown = classes if len(classes) <= MOST_CLASSES else ()
    for name in shown:
        made.add_column(name, justify="right", style="dim")
    measures = split.measures
    for client in range(min(len(split.clients), MOST_CLIENTS)):
        distance = measures["label_distance"][client]
        made.add_row(
            str(client),
            str(measures["samples"][client]),
            str(len(split.local_test[client])),
            str(measures["classes"][client]),
            f"{measures['label_entropy'][client]:.2f}",
            "–" if distance is None else f"{distance:.2f}",
            *(str(counts[client, column]) for column in range(len(shown))),
        )
    return made


def words(split: Split) -> list[str]:
    """Lines about the whole split, to print below the table."""
    hidden = len(split.clients) - MOST_CLIENTS
    source = f" of {split.transfer_dataset}" if split.transfer_dataset else ""
    validation = sum(map(len, split.val)) if isinstance(split.val, tuple) else len(split.val)
    lines = [f"… and {hidden} more clients, which the manifest lists"] if hidden > 0 else []
    return [
        *lines,
        "entropy of the labels in nats; Jensen-Shannon distance to all clients together, in [0, 1]; "
        f"mean distance {split.measures['mean_label_distance']:.3f}, Gini of sizes {split.measures['size_gini']:.3f}",
        f"private {sum(map(len, split.clients))}, validation {validation}, transfer "
        f"{len(split.transfer)}{source}, dropped {len(split.dropped)}, local test {sum(map(len, split.local_test))}; "
        f"sha256 {split.sha256[:16]}…",
    ]


def draw(split: Split, counts: NDArray[np.int64], classes: Sequence[str], kind: str, path: Path) -> None:
    """Write the picture of one split; `kind` is a key of `PICTURES`, the ending of `path` the format."""
    legend = kind == "bars"
    with styled(), replacing(path) as temporary:
        figure, (ax,) = panels(1, width=6.0, height=3.4, extra=0.5 if legend else 0.0)
        PICTURES[kind](counts, classes, ax).set_title(wrap(f"{split.strategy}, {split.dataset}, seed {split.seed}", 70))
        if legend:
            legend_below(figure, [ax])
        figure.savefig(temporary, format=path.suffix[1:])
