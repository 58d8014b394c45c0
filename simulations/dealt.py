"""One deal in the terminal and as a picture: what `fedkd partition` shows."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.table import Table

from analysis.drawing.partitions import PICTURES
from analysis.drawing.style import legend_below, panels, styled, wrap
from analysis.results.files import replacing
from partitions.deal import Deal

MOST_CLIENTS, MOST_CLASSES = 40, 12
"""More rows and columns than these say nothing in a terminal; the manifest has them all."""


def table(deal: Deal, counts: NDArray[np.int64], classes: Sequence[str]) -> Table:
    """One row a client: sizes, measures of skew and, for few classes, the samples of each."""
    made = Table(title=f"{deal.strategy} on {deal.dataset}, seed {deal.seed}", title_justify="left")
    for name in ("client", "samples", "local test", "classes", "entropy", "distance"):
        made.add_column(name, justify="right")
    shown = classes if len(classes) <= MOST_CLASSES else ()
    for name in shown:
        made.add_column(name, justify="right", style="dim")
    measures = deal.measures
    for client in range(min(len(deal.clients), MOST_CLIENTS)):
        distance = measures["label_distance"][client]
        made.add_row(
            str(client),
            str(measures["samples"][client]),
            str(len(deal.local_test[client])),
            str(measures["classes"][client]),
            f"{measures['label_entropy'][client]:.2f}",
            "–" if distance is None else f"{distance:.2f}",
            *(str(counts[client, place]) for place in range(len(shown))),
        )
    return made


def words(deal: Deal) -> list[str]:
    """What the table cannot say in a row a client."""
    hidden = len(deal.clients) - MOST_CLIENTS
    source = f" of {deal.transfer_dataset}" if deal.transfer_dataset else ""
    validation = sum(map(len, deal.val)) if isinstance(deal.val, tuple) else len(deal.val)
    lines = [f"… and {hidden} more clients, which the manifest lists"] if hidden > 0 else []
    return [
        *lines,
        "entropy of the labels in nats; Jensen-Shannon distance to all clients together, in [0, 1]; "
        f"mean distance {deal.measures['mean_label_distance']:.3f}, Gini of sizes {deal.measures['size_gini']:.3f}",
        f"private {sum(map(len, deal.clients))}, validation {validation}, transfer "
        f"{len(deal.transfer)}{source}, dropped {len(deal.dropped)}, local test {sum(map(len, deal.local_test))}; "
        f"sha256 {deal.sha256[:16]}…",
    ]


def draw(deal: Deal, counts: NDArray[np.int64], classes: Sequence[str], kind: str, path: Path) -> None:
    """Write the picture of one deal; `kind` is a key of `PICTURES`, the ending of `path` the format."""
    legend = kind == "bars"
    with styled(), replacing(path) as temporary:
        figure, (ax,) = panels(1, width=6.0, height=3.4, extra=0.5 if legend else 0.0)
        PICTURES[kind](counts, classes, ax).set_title(wrap(f"{deal.strategy}, {deal.dataset}, seed {deal.seed}", 70))
        if legend:
            legend_below(figure, [ax])
        figure.savefig(temporary, format=path.suffix[1:])
