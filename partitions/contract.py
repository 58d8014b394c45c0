"""What a partition strategy is given, what it returns, and what is held of every one of them."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import ConfigDict

Indices = NDArray[np.int64]
Images = NDArray[np.float32]
Transform = Callable[[Images, np.random.Generator], Images]
"""Images (k, channels, height, width) in [0, 1] → images of the same shape in [0, 1]; a new array, never in place.
The generator is the only source of chance."""

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
"""Config of every strategy: no silent conversions, no unknown parameters, field docstrings are help texts."""


class PartitionError(ValueError):
    """A strategy or manifest cannot be used: the message says what was found and what would be right."""


@dataclass(frozen=True, eq=False)
class Samples:
    """What a strategy may look at: everything but the inputs themselves."""

    labels: NDArray[np.int64]
    """(n,) class of each sample."""

    columns: Mapping[str, NDArray[Any]] = field(default_factory=dict)
    """Further arrays with first length n, for example who wrote a digit."""

    positions: NDArray[np.int64] | None = None
    """(n,) place of each sample in the data set's training array; None: 0 … n−1."""

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


class Strategy(ABC):
    """One way to deal samples to clients: a frozen pydantic dataclass whose fields are its parameters."""

    @property
    def allow_empty(self) -> bool:
        """Whether the parameters ask for clients that may hold nothing."""
        return False

    @abstractmethod
    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Deal `samples` to `clients` clients; `rng` is the only source of chance.

        Raises PartitionError where the parameters cannot be met.
        """

    def local_test(self, partition: Partition, samples: Samples, test: Samples, rng: np.random.Generator) -> Partition:
        """Deal `test` samples by the same law: each client gets what its own data are like.

        By default the (clients, classes) counts are in proportion to those of `partition`, with one factor for
        all, as large as the test samples allow. `dropped` holds the rest. Clients may come out empty.
        """
        from partitions.likeness import alike  # imports this file

        return alike(partition, samples, test, rng)


def stream(seed: int, purpose: str) -> np.random.Generator:
    """An independent random stream for one purpose of one seed; nothing global is read or moved."""
    digest = hashlib.sha256(f"partitions/{purpose}/{seed}".encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest)))


def apply(strategy: Strategy, samples: Samples, clients: int, seed: int) -> Partition:
    """Deal `samples` to `clients` clients and hold the result to the contract.

    The same strategy, samples, clients and seed give the same partition on every machine.
    Raises PartitionError where the request cannot be met.
    """
    if clients < 1:
        raise PartitionError(f"clients = {clients}; at least 1 is needed")
    if clients > len(samples):
        raise PartitionError(f"{clients} clients cannot share {len(samples)} samples; use fewer clients")
    partition = strategy.split(samples, clients, stream(seed, "split"))
    check(partition, samples, clients, strategy)
    return partition


def check(partition: Partition, samples: Samples, clients: int, strategy: Strategy) -> None:
    """Raise PartitionError unless the partition is whole.

    Whole: one array a client, indices in range and disjoint, every sample held or dropped, no empty client
    unless the strategy's parameters ask for it.
    """
    name = type(strategy).__name__
    if len(partition.clients) != clients:
        raise PartitionError(f"{name} returned {len(partition.clients)} index arrays for {clients} clients")
    if partition.transforms is not None and len(partition.transforms) != clients:
        raise PartitionError(f"{name} returned {len(partition.transforms)} transforms for {clients} clients")
    if partition.labels is not None and (
        partition.labels.shape != samples.labels.shape or partition.labels.dtype != np.int64
    ):
        raise PartitionError(f"{name} returned labels of another shape or type than the {len(samples)} it was given")
    parts = [(f"client {i}", indices) for i, indices in enumerate(partition.clients)]
    parts.append(("dropped", partition.dropped))
    if fault := misplaced(parts, len(samples)):
        raise PartitionError(f"{name}: {fault}")
    held = sum(len(indices) for _, indices in parts)
    if held != len(samples):
        raise PartitionError(
            f"{name} accounts for {held} of {len(samples)} samples; what goes to no client belongs in `dropped`"
        )
    empty = [i for i, indices in enumerate(partition.clients) if not len(indices)]
    if empty and not strategy.allow_empty:
        raise PartitionError(
            f"{name} leaves client {empty[0]} without samples ({len(empty)} of {clients} clients are empty); "
            f"use fewer clients or a less skewed strategy"
        )


def misplaced(parts: Iterable[tuple[str, NDArray[Any]]], n: int | None) -> str:
    """What is wrong with index arrays that should be disjoint and within range(n); "" where nothing is."""
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
