"""How a partition cut the data: who holds how many samples of which class."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import BoundaryNorm, LinearSegmentedColormap, ListedColormap, PowerNorm
from matplotlib.ticker import MaxNLocator
from scipy import stats

from analysis.drawing.heatmap import heat_map
from analysis.drawing.style import wrap

# Petroff's ten-colour cycle, made to be told apart with any common kind of colour vision.
_TEN = [
    "#3f90da",
    "#ffa90e",
    "#bd1f01",
    "#94a4a2",
    "#832db6",
    "#a96b59",
    "#e76300",
    "#b9ac70",
    "#717581",
    "#92dadd",
]

_HELD = LinearSegmentedColormap.from_list("held", colormaps["Blues"](np.linspace(0.18, 1.0, 64)))
MOST_BARS = len(_TEN)
"""Up to so many classes are told apart as colours of a bar."""


def partition_picture(counts: npt.ArrayLike, classes: Sequence[str], ax: Axes) -> Axes:
    """One bar a client, its height the number of samples, its segments the classes.

    counts: integers, shape (clients, classes). classes: their names. Up to ten classes are labelled for a
    legend; more get a colour bar, for nobody can tell so many patches apart. Raises ValueError when shapes
    disagree or counts are negative.
    """
    table = _named(counts, classes)
    clients = table.shape[0]
    many = clients > 30
    colours = class_colours(len(classes))
    floor = np.zeros(clients)
    for index, name in enumerate(classes):
        height = table[:, index]
        label = wrap(str(name), 16, 1) if len(classes) <= len(_TEN) else "_nolegend_"
        if many:
            # One step-shaped area a class: thousands of single bars take seconds. Very many
            # become pixels, for browsers do not like such an SVG either.
            edges = np.arange(clients + 1) - 0.5
            ax.stairs(
                floor + height,
                edges,
                baseline=floor,
                fill=True,
                color=colours[index],
                label=label,
                rasterized=table.size > 2000,
            )
        else:
            line = 0.4 if len(classes) <= len(_TEN) else 0.0
            ax.bar(
                np.arange(clients),
                height,
                0.82,
                floor,
                color=colours[index],
                edgecolor="white",
                linewidth=line,
                label=label,
            )
        floor += height
    if len(classes) > len(_TEN):
        _colour_bar(ax, colours, classes)
    ax.set_xlim(-0.6, clients - 0.4)
    ax.set_ylim(0, 1.05 * max(float(floor.max()), 1.0))
    ax.grid(visible=False, axis="x")
    _client_axis(ax, clients)
    ax.set_ylabel("samples")
    return ax


def partition_bubbles(counts: npt.ArrayLike, classes: Sequence[str], ax: Axes) -> Axes:
    """One bubble a client and class, its area the number of samples, the largest just touching its neighbours.

    counts: integers, shape (clients, classes). classes: their names. Raises ValueError when shapes disagree or
    counts are negative.
    """
    table = _named(counts, classes)
    clients, number = table.shape
    client, label = np.nonzero(table)
    colours = np.array(class_colours(number))
    _class_axis(ax, classes)
    _client_axis(ax, clients)
    ax.set_xlim(-0.7, clients - 0.3)
    ax.set_ylim(number - 0.3, -0.7)
    # Circles in points, sized by the room that one cell has, however long the axes are.
    box = ax.get_position()
    figure = ax.get_figure(root=True)
    assert figure is not None
    width, height = figure.get_size_inches() * 72
    cell = min(box.width * width / clients, box.height * height / number)
    share = table[client, label] / max(table.max(), 1)
    ax.scatter(client, label, s=share * cell**2, c=colours[label], linewidths=0, rasterized=table.size > 2000)
    ax.grid(visible=False)
    ax.set_ylabel("class")
    return ax


def partition_heatmap(counts: npt.ArrayLike, classes: Sequence[str], ax: Axes) -> Axes:
    """One cell a client and class, its shade the number of samples; few cells carry the number too.

    counts: integers, shape (clients, classes). classes: their names. Raises ValueError when shapes disagree or
    counts are negative.
    """
    table = _named(counts, classes).T
    clients = table.shape[1]
    # Few samples are told from none: shades grow with the root, and what nobody holds stays white.
    shades = PowerNorm(0.5, vmin=0, vmax=max(table.max(), 1))
    few = table.size <= 200
    image = heat_map(
        np.ma.masked_equal(table, 0),
        ax,
        texts=table.astype(str) if few else None,
        on_dark=table > 0.4 * table.max(),
        fontsize=6,
        framed=True,
        cmap=_HELD,
        norm=shades,
        interpolation="nearest",
    )
    if not few:
        figure = ax.get_figure()
        assert figure is not None
        bar = figure.colorbar(image, ax=ax, pad=0.02, fraction=0.05, label="samples")
        bar.locator = MaxNLocator(5, integer=True)
        bar.update_ticks()
    _class_axis(ax, classes)
    _client_axis(ax, clients)
    ax.set_ylabel("class")
    return ax


PICTURES = {"bars": partition_picture, "bubbles": partition_bubbles, "heatmap": partition_heatmap}
"""Ways to draw a partition: each takes (clients, classes) counts, class names and an `ax`."""


def partition_measures(counts: npt.ArrayLike) -> pd.DataFrame:
    """One row a client: `client`, `samples`, `classes` (present ones), `entropy` of its labels in bits.

    counts: integers, shape (clients, classes). Entropy is 0 for one class and log2(classes) for a uniform
    shard; an empty shard has entropy 0 by convention. Raises ValueError for negative counts or another shape.
    """
    table = _checked(counts)
    samples = table.sum(axis=1)
    # One sample of the first class stands in for an empty shard: its entropy is the 0 of the convention.
    filled = table.astype(np.float64)
    filled[samples == 0, :1] = 1.0
    return pd.DataFrame(
        {
            "client": np.arange(len(table)),
            "samples": samples,
            "classes": (table > 0).sum(axis=1),
            "entropy": stats.entropy(filled, base=2, axis=1),
        }
    )


def class_colours(number: int) -> list[str]:
    """A colour for each class: distinct up to ten, then even steps along one scale."""
    if number <= len(_TEN):
        return _TEN[:number]
    scale = colormaps["turbo"](np.linspace(0.05, 0.95, number))
    return ["#" + "".join(f"{round(255 * part):02x}" for part in colour[:3]) for colour in scale]


def _colour_bar(ax: Axes, colours: list[str], classes: Sequence[str]) -> None:
    edges = BoundaryNorm(np.arange(len(classes) + 1) - 0.5, len(classes))
    shown = np.unique(np.linspace(0, len(classes) - 1, 5).round().astype(int))
    figure = ax.get_figure()
    assert figure is not None
    bar = figure.colorbar(ScalarMappable(edges, ListedColormap(colours)), ax=ax, ticks=shown, pad=0.02, fraction=0.05)
    bar.set_ticklabels([wrap(str(classes[index]), 12, 1) for index in shown])
    bar.minorticks_off()
    bar.ax.tick_params(length=0)


def _client_axis(ax: Axes, clients: int) -> None:
    if clients <= 12:
        ax.set_xticks(range(clients))
    else:
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    ax.set_xlabel("client")


def _class_axis(ax: Axes, classes: Sequence[str]) -> None:
    shown = np.unique(np.linspace(0, len(classes) - 1, min(len(classes), 12)).round().astype(int))
    ax.set_yticks(shown, [wrap(str(classes[index]), 12, 1) for index in shown])
    ax.tick_params(axis="y", length=0)


def _named(counts: npt.ArrayLike, classes: Sequence[str]) -> npt.NDArray[np.int64]:
    table = _checked(counts)
    if table.shape[1] != len(classes):
        raise ValueError(f"counts have {table.shape[1]} classes, but {len(classes)} class names were given")
    return table


def _checked(counts: npt.ArrayLike) -> npt.NDArray[np.int64]:
    table = np.asarray(counts, dtype=np.int64)
    if table.ndim != 2 or table.size == 0 or (table < 0).any():
        raise ValueError(f"counts should be non-negative integers of shape (clients, classes), found {table.shape}")
    return table
