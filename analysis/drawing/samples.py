"""The same images as different clients see them."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from matplotlib.axes import Axes

from analysis.drawing.heatmap import heat_map


def seen_by_clients(images: npt.ArrayLike, ax: Axes) -> Axes:
    """A row a sample and a column a client.

    images: (clients, samples, channels, height, width) in [0, 1], one or three channels. Raises ValueError for
    another shape.
    """
    table = np.asarray(images, np.float64)
    if table.ndim != 5 or table.shape[2] not in (1, 3):
        raise ValueError(f"images should be (clients, samples, 1 or 3, height, width), found {table.shape}")
    clients, samples, _, height, width = table.shape
    # One picture of tiles, a pixel of white between them.
    framed = np.pad(table, [(0, 0), (0, 0), (0, 0), (0, 1), (0, 1)], constant_values=1.0)
    whole = framed.transpose(1, 3, 0, 4, 2).reshape(samples * (height + 1), clients * (width + 1), -1)
    ax.imshow(whole.squeeze(-1) if whole.shape[2] == 1 else whole, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    ax.set_xticks(np.arange(clients) * (width + 1) + (width - 1) / 2, [str(client) for client in range(clients)])
    ax.set_yticks([])
    ax.set_xlabel("client")
    ax.grid(visible=False)
    for side in ax.spines.values():
        side.set_visible(False)
    ax.tick_params(length=0)
    return ax


def seen_labels(true: npt.ArrayLike, seen: npt.ArrayLike, classes: Sequence[str], ax: Axes) -> Axes:
    """Shares of each true class (row) that carry each label (column), in percent.

    true, seen: (n,) integers in 0..len(classes)−1. Raises ValueError where their lengths differ.
    """
    given, shown = np.asarray(true, np.int64), np.asarray(seen, np.int64)
    if given.shape != shown.shape:
        raise ValueError(f"true and seen labels should have one shape, found {given.shape} and {shown.shape}")
    number = len(classes)
    counts = np.bincount(given * number + shown, minlength=number**2).reshape(number, number)
    shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    texts = np.vectorize(lambda share: f"{share:.0f}", otypes=[object])(shares) if number <= 12 else None
    shades: dict[str, Any] = {"cmap": "Blues", "vmin": 0, "vmax": 100, "interpolation": "nearest"}
    heat_map(shares, ax, texts=texts, on_dark=shares > 60, fontsize=6, framed=True, **shades)
    ax.set_xticks(range(number), classes)
    ax.set_yticks(range(number), classes)
    ax.set_xlabel("label that the clients see")
    ax.set_ylabel("true class")
    return ax
