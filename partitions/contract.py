"""What a partition strategy is, and what every partition must satisfy."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod

import numpy as np
from pydantic import ConfigDict

from partitions.likeness import alike
from partitions.partition import Images, Indices, Partition, PartitionError, Samples, Transform, misplaced

__all__ = [
    "STRICT",
    "Images",
    "Indices",
    "Partition",
    "PartitionError",
    "Samples",
    "Strategy",
    "Transform",
    "apply",
    "check",
    "stream",
]

STRICT = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False, use_attribute_docstrings=True)
"""Config of every strategy: no silent conversions, no unknown parameters, field docstrings are help texts."""


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
