"""Strategies in a sum: `long_tail(imbalance=50.0)+dirichlet(alpha=0.3)+noise(sigma=0.5)`.

A sum first removes samples, then distributes the rest to the clients, then changes what each client sees. At most one
term distributes; without one the distribution is IID.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from partitions.contract import Images, Indices, Partition, PartitionError, Samples, Strategy, Transform
from partitions.iid import IID


class Thinning(Strategy):
    """A strategy that removes samples before they are distributed; alone, it distributes the rest IID."""

    @abstractmethod
    def keep(self, samples: Samples, rng: np.random.Generator) -> Indices:
        """(k,) indices of the samples that stay, in any order. Raises PartitionError where none would."""

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Thin, then deal IID."""
        return Sum((self,)).split(samples, clients, rng)


class Skew(Strategy):
    """A strategy that changes what clients see of their samples; alone, it distributes them IID first."""

    @abstractmethod
    def alter(self, partition: Partition, samples: Samples, rng: np.random.Generator) -> Partition:
        """The partition with further transforms or labels (see `then`); the indices stay as they are."""

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Deal IID, then alter."""
        return Sum((self,)).split(samples, clients, rng)


@dataclass(frozen=True)
class Sum(Strategy):
    """Several strategies as one; `composed` checks the terms and makes it."""

    parts: tuple[Strategy, ...]

    @property
    def dealer(self) -> Strategy:
        """The term that distributes the samples."""
        return next((part for part in self.parts if not isinstance(part, Thinning | Skew)), IID())

    @property
    def allow_empty(self) -> bool:
        """Whether the `dealer` may leave clients empty."""
        return self.dealer.allow_empty

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Remove, distribute, skew, in this order; within each of these groups the terms apply in the order given."""
        remaining = np.arange(len(samples))
        for part in self.parts:
            if isinstance(part, Thinning):
                remaining = remaining[np.sort(part.keep(samples.some(remaining), rng))]
        if clients > len(remaining):
            raise PartitionError(
                f"{clients} clients cannot share the {len(remaining)} samples that are left; use fewer"
            )
        partition = self.dealer.split(samples.some(remaining), clients, rng)
        thinned = np.setdiff1d(np.arange(len(samples)), remaining, assume_unique=True)
        labels = None
        if partition.labels is not None:
            labels = samples.labels.copy()
            labels[remaining] = partition.labels
        partition = Partition(
            tuple(remaining[indices] for indices in partition.clients),
            np.concatenate([thinned, remaining[partition.dropped]]),
            partition.transforms,
            labels,
        )
        for part in self.parts:
            if isinstance(part, Skew):
                partition = part.alter(partition, samples, rng)
        return partition

    def local_test(self, partition: Partition, samples: Samples, test: Samples, rng: np.random.Generator) -> Partition:
        """As the `dealer` distributes test samples."""
        return self.dealer.local_test(partition, samples, test, rng)


def composed(parts: Sequence[Strategy], texts: Sequence[str]) -> Strategy:
    """The strategies of one sum as one; `texts` are their spec strings, for the message.

    Raises PartitionError where two terms deal.
    """
    dealers = [text for part, text in zip(parts, texts, strict=True) if not isinstance(part, Thinning | Skew)]
    if len(dealers) > 1:
        raise PartitionError(
            f"{dealers[0]} and {dealers[1]} both deal the samples to clients, and only one can; "
            f"terms that can be added to it thin out or skew, such as long_tail, noise, rotation, label_noise"
        )
    return parts[0] if len(parts) == 1 else Sum(tuple(parts))


def then(first: Sequence[Transform] | None, second: Sequence[Transform]) -> tuple[Transform, ...]:
    """One transform a client: first that of `first`, then that of `second`."""
    if first is None:
        return tuple(second)
    return tuple(Chain((a, b)) for a, b in zip(first, second, strict=True))


@dataclass(frozen=True)
class Chain:
    """Transforms one after the other; a class, because transforms travel between processes."""

    links: tuple[Transform, ...]

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Apply all."""
        for link in self.links:
            images = link(images, rng)
        return images


def with_transforms(partition: Partition, transforms: Sequence[Transform]) -> Partition:
    """The partition with one further transform a client."""
    return replace(partition, transforms=then(partition.transforms, transforms))
