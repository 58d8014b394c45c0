"""Samples of each class at each client."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Any

from matplotlib.axes import Axes

from analysis.drawing.partitions import MOST_BARS, partition_heatmap, partition_measures, partition_picture
from analysis.drawing.picture import Sheet, slug
from analysis.figure import Block, Figure


class Partitions(Figure):
    order = 10
    of_study = True

    def sheets(self, block: Block) -> Iterator[Sheet]:
        """One sheet a data set, one panel a partition: the first seed of each. Splits without counts are left out."""
        first: dict[tuple[str, str, int], Split] = {}
        for split in block.splits:
            if split.get("counts") and split.get("classes"):
                first.setdefault((str(split["dataset"]), str(split["partition"]), len(split["counts"])), split)
        datasets = list(dict.fromkeys(name for name, _, _ in first))
        for dataset in datasets:
            splits = {
                (block.name("partition", name), clients): split
                for (of, name, clients), split in first.items()
                if of == dataset
            }
            several = len({clients for _, clients in splits}) > 1
            seeds = sorted({str(split.get("seed")) for split in splits.values()})
            yield Sheet(
                f"Who holds what: {block.name('dataset', dataset)}",
                f"Private samples of each class at each client, seed {', '.join(seeds)}. {_measures(splits)}",
                [
                    (f"{name} · {clients} clients" if several else name, _panel(split))
                    for (name, clients), split in splits.items()
                ],
                part="" if len(datasets) == 1 else slug(dataset),
                **_size(splits.values()),
            )


Split = Mapping[str, Any]
"""A partition of a study: dataset, partition, seed, counts (clients × classes), classes."""


def _panel(split: Split) -> Callable[[Axes], Axes]:
    """Bars up to ten classes; nobody can tell more colours apart, and then a map shows who holds what."""
    names = [str(name) for name in split["classes"]]
    draw = partition_picture if len(names) <= MOST_BARS else partition_heatmap
    return partial(draw, split["counts"], names)


def _size(splits: Iterable[Split]) -> dict[str, Any]:
    """Room for a panel: many classes or clients take more of it, and so fewer panels a row."""
    splits = list(splits)
    classes = max(len(split["classes"]) for split in splits)
    clients = max(len(split["counts"]) for split in splits)
    if classes <= MOST_BARS and clients <= 30:
        return {"height": 2.7}
    return {"width": 6.0, "height": 2.7 if classes <= MOST_BARS else min(2.4 + 0.03 * classes, 6.0), "most": 2}


def _measures(splits: Mapping[tuple[str, int], Split]) -> str:
    texts = []
    for (name, clients), split in splits.items():
        measures = partition_measures(split["counts"])
        texts.append(
            f"{name}, {clients} clients: {measures['samples'].min()}–{measures['samples'].max()} samples, "
            f"label entropy {measures['entropy'].mean():.2f} bits on average"
        )
    return "; ".join(texts) + "."
