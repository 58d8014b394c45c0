"""docs/gallery.md and its pictures: every partition strategy once, on scikit-learn's digits.

python -m docs.gallery
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes

from analysis.drawing.partitions import PICTURES
from analysis.drawing.picture import slug
from analysis.drawing.samples import seen_by_clients, seen_labels
from analysis.drawing.style import legend_below, panels, save, styled
from fedkd.base.catalogue import summary
from fedkd.base.spec import parse, terms
from fedkd.data import Dataset, load
from partitions.contract import Partition, Samples, apply, stream
from partitions.measures import skew
from partitions.split import Split
from simulations.splits import PARTITIONS, partition_strategy, write_manifest

HERE = Path(__file__).parent
CLIENTS, SEED = 10, 0
SIZES = "[200, 200, 200, 100, 100, 100, 100, 50, 50, 50]"
SHOWN: tuple[tuple[str, str], ...] = (
    ("iid", "bars"),
    ("dirichlet(alpha=0.3)", "bars"),
    ("dirichlet(alpha=0.3, balanced=true)", "bars"),
    ("pathological(classes=2)", "bars"),
    ("shards(per_client=2)", "bars"),
    ("overlap(own=2, shared=2)", "heatmap"),
    ("disjoint", "bars"),
    ("long_tail(imbalance=20.0)", "bars"),
    ("long_tail(imbalance=20.0)+dirichlet(alpha=0.5, min_size=2)", "bubbles"),
    ('quantity(law="linear")', "bars"),
    ('quantity(law="lognormal", sigma=0.8)', "bars"),
    (f"sizes(sizes={SIZES})", "bars"),
    (f"inner_dirichlet(sizes={SIZES}, alpha=0.3)", "bars"),
    ("noise(sigma=0.4)", "images"),
    ("rotation(degrees=60.0)", "images"),
    ("brightness(range=0.6)", "images"),
    ("label_noise(rate=0.2)", "labels"),
    ('label_noise(rate=0.2, kind="pair")', "labels"),
    ('by_column(name="writer")', "bars"),
    ("dirichlet(alpha=0.3, min_size=5)+noise(sigma=0.4)", "bubbles"),
)
"""Spec string and kind of picture. `manifest` shows whatever its file holds, here a Dirichlet deal."""


FEWER = {"overlap(own=2, shared=2)": 4}
"""Clients of the strategies for which ten classes are too few for ten."""


def samples() -> tuple[Dataset, Samples]:
    """The digits' training array, with a made-up writer for each sample: ten, of unequal diligence."""
    dataset = load("digits")
    labels = dataset.labels[dataset.train].numpy()
    diligence = 0.75 ** np.arange(CLIENTS)
    writer = stream(SEED, "writers").choice(CLIENTS, len(labels), p=diligence / diligence.sum())
    return dataset, Samples(labels, {"writer": writer})


def picture(spec: str, kind: str, dataset: Dataset, given: Samples) -> str:
    """Draw one strategy; returns its section of the page."""
    partition = apply(partition_strategy(spec), given, FEWER.get(spec, CLIENTS), SEED)
    counts = np.stack([np.bincount(given.labels[own], minlength=10) for own in partition.clients])
    legend = kind == "bars"
    with styled():
        figure, (ax,) = panels(1, 6.0, 1.9 if kind == "images" else 3.0, extra=0.5 if legend else 0.0)
        _draw(kind, partition, counts, dataset, given, ax)
        if legend:
            legend_below(figure, [ax])
        name = slug(spec)
        svg, _ = save(figure, HERE / "figures" / "gallery" / name)
        svg.unlink()  # the page shows the PNG, and one of the two is enough in a repository
    measures = skew(counts)
    first = terms(spec, "+")
    described = [summary(PARTITIONS.find(parse(term))) for term in first]
    return (
        f"## `{spec}`\n\n{' '.join(described)}\n\n![{spec}](figures/gallery/{name}.png)\n\n"
        f"{min(measures['samples'])} to {max(measures['samples'])} samples and {min(measures['classes'])} to "
        f"{max(measures['classes'])} classes a client; mean Jensen-Shannon distance "
        f"{measures['mean_label_distance']:.2f}, Gini of sizes {measures['size_gini']:.2f}; "
        f"{len(partition.dropped)} samples dropped.\n"
    )


def _draw(kind: str, partition: Partition, counts: object, dataset: Dataset, given: Samples, ax: Axes) -> None:
    classes = list(dataset.classes)
    if kind in PICTURES:
        PICTURES[kind](counts, classes, ax)  # type: ignore[arg-type]
    elif kind == "labels":
        assert partition.labels is not None
        seen_labels(given.labels, partition.labels, classes, ax)
    else:
        assert partition.transforms is not None
        plain = dataset.pixels(dataset.train[:2]).numpy()
        tiles = [change(plain, stream(SEED, f"tiles/{i}")) for i, change in enumerate(partition.transforms)]
        seen_by_clients(np.stack(tiles), ax)


def page() -> str:
    """The whole page; the pictures are drawn on the way."""
    dataset, given = samples()
    sections = [picture(spec, kind, dataset, given) for spec, kind in SHOWN]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "split.json"
        dealt = apply(partition_strategy("dirichlet(alpha=0.3)"), given, CLIENTS, SEED)
        empty = np.empty(0, np.int64)
        write_manifest(file, Split("dirichlet(alpha=0.3)", "digits", SEED, dealt.clients, empty, (empty,) * CLIENTS))
        again = picture(f"manifest(file={json.dumps(str(file))})", "bars", dataset, replace(given))
        name = slug(f"manifest(file={json.dumps(str(file))})")
    figures = HERE / "figures" / "gallery"
    (figures / f"{name}.png").replace(figures / "manifest.png")
    again = again.replace(name, "manifest").replace(json.dumps(str(file)), '"split.json"')
    return (
        "# Gallery of partitions\n\n"
        "Every strategy on the training samples of scikit-learn's digits, ten clients where ten classes suffice for\n"
        "them, seed 0. Made by\n"
        "`python -m docs.gallery`, which is part of `make docs`; parameters are in the [catalogue](catalogue.md), and\n"
        "`fedkd partition SPEC --plot FILE` draws any other.\n\n" + "\n".join([*sections, again])
    )


def main() -> None:
    """Write page and pictures."""
    figures = HERE / "figures" / "gallery"
    figures.mkdir(parents=True, exist_ok=True)
    for old in figures.glob("*.png"):
        old.unlink()
    (HERE / "gallery.md").write_text(page(), encoding="utf-8")
    print(f"{HERE / 'gallery.md'}: {len(list(figures.glob('*.png')))} pictures")


if __name__ == "__main__":
    main()
