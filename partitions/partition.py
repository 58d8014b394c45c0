"""Input and output of a strategy: samples, and their partition."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

Indices = NDArray[np.int64]
Images = NDArray[np.float32]
Transform = Callable[[Images, np.random.Generator], Images]
"""Images (k, channels, height, width) in [0, 1] → images of the same shape in [0, 1]; a new array, never in place.
The generator is the only source of chance."""


class PartitionError(ValueError):
    """A strategy or manifest cannot be used: the message says what was found and what would be right."""


@dataclass(frozen=True, eq=False)
class Samples:
    """The samples as a strategy sees them: labels and columns, but no inputs."""

    labels: NDArray[np.int64]
    """(n,) class of each sample."""

    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Further arrays with first length n, for example who wrote a digit."""

    positions: NDArray[np.int64] | None = None
    """(n,) index of each sample in the data set's training array; None: 0 … n−1."""

    def __post_init__(self) -> None:
        if self.labels.ndim != 1 or self.labels.dtype != np.int64:
            raise PartitionError(
                f"labels must be int64 of shape (n,), not {self.labels.dtype} of shape {self.labels.shape}"
            )
        for name, column in self.columns.items():
            if column.shape[:1] != self.labels.shape:
                raise PartitionError(
                    f"column {name!r} has shape {column.shape}; its first length must be {len(self)}, one a sample"
                )
        if self.positions is not None and self.positions.shape != self.labels.shape:
            raise PartitionError(f"positions has shape {self.positions.shape}; {self.labels.shape} is needed")

    def __len__(self) -> int:
        return len(self.labels)

    def some(self, indices: Indices) -> Samples:
        """The samples at some (k,) indices, in that order."""
        positions = indices if self.positions is None else self.positions[indices]
        return Samples(
            self.labels[indices], {name: column[indices] for name, column in self.columns.items()}, positions
        )


@dataclass(frozen=True, eq=False)
class Partition:
    """Index arrays into the samples, one a client; the order within an array is the client's own order."""

    clients: tuple[Indices, ...]
    """One (n_i,) array a client."""

    dropped: Indices = field(default_factory=lambda: np.empty(0, np.int64))
    """(d,) samples that the strategy gives to nobody."""

    transforms: tuple[Transform, ...] | None = None
    """One function on a client's images a client, for strategies that skew features; None: left alone. It applies
    to the client's training, validation and local test images."""

    labels: NDArray[np.int64] | None = None
    """(n,) labels as the clients see them, for strategies that falsify some; None: as they are. Training and
    validation samples carry them; test labels stay true."""


def misplaced(parts: Iterable[tuple[str, NDArray[Any]]], n: int | None) -> str:
    """The first fault of index arrays that must be disjoint and within range(n), for a message; "" for none."""
    named = list(parts)
    for name, indices in named:
        if indices.ndim != 1 or indices.dtype != np.int64:
            return f"{name} must be int64 of shape (n,), not {indices.dtype} of shape {indices.shape}"
        outside = indices[(indices < 0) | (indices >= n)] if n is not None else indices[indices < 0]
        if len(outside):
            span = f"0 to {n - 1}" if n is not None else "0 or more"
            return f"{name} holds the index {outside[0]}; indices must be {span}"
    if not named:
        return ""
    indices = np.concatenate([part for _, part in named])
    owner = np.repeat(np.arange(len(named)), [len(part) for _, part in named])
    order = np.argsort(indices, kind="stable")
    twice = np.flatnonzero(np.diff(indices[order]) == 0)
    if not len(twice):
        return ""
    first, second = order[twice[0]], order[twice[0] + 1]
    return f"index {indices[first]} is in {named[owner[first]][0]} and again in {named[owner[second]][0]}"
