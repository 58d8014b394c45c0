"""The interface of a partition strategy, and the conditions that every partition must meet."""

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
    """A way to distribute samples to clients: a frozen pydantic dataclass whose fields are its parameters."""

    @property
    def allow_empty(self) -> bool:
        """Whether the parameters allow clients without samples."""
        return False

    @abstractmethod
    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Distribute `samples` to `clients` clients; all random numbers come from `rng`.

        Raises PartitionError where the parameters cannot be met.
        """

    def local_test(self, partition: Partition, samples: Samples, test: Samples, rng: np.random.Generator) -> Partition:
        """Distribute `test` samples so that each client's are distributed like its training samples.

        By default the (clients, classes) counts are those of `partition` times one factor, which is as large as the
        test samples allow. The remaining test samples are in `dropped`. Clients may be empty.
        """
        return alike(partition, samples, test, rng)


def stream(seed: int, purpose: str) -> np.random.Generator:
    """A random generator for one purpose and seed; global generators are neither used nor changed."""
    digest = hashlib.sha256(f"partitions/{purpose}/{seed}".encode()).digest()
    return np.random.default_rng(np.random.SeedSequence(int.from_bytes(digest)))


def apply(strategy: Strategy, samples: Samples, clients: int, seed: int) -> Partition:
    """Distribute `samples` to `clients` clients and check the result.

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
    """Raise PartitionError unless the partition is valid.

    Valid: one index array a client, indices in range and disjoint, every sample with a client or in `dropped`, and no
    empty client unless the strategy's parameters allow it.
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
