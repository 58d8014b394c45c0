"""Label skew from a Dirichlet distribution."""

from __future__ import annotations

from typing import Annotated

import annotated_types
import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Indices, Partition, PartitionError, Samples, Strategy
from partitions.rounding import largest_remainder

DRAWS = 1000
"""Draws before giving up: a count, not a time, so that a seed fails or succeeds alike on every machine."""


@dataclass(frozen=True, config=STRICT)
class Dirichlet(Strategy):
    """Label skew: each class is shared out to the clients by proportions drawn from a Dirichlet distribution.

    A client's share of a class has mean 1/N and variance (1/N)(1−1/N)/(N·alpha+1) for N clients, as long as
    `min_size` rejects few draws and `balanced` is off. After Yurochkin et al. 2019 (arXiv 1905.12022).

    Shares become whole samples by largest remainder, so that all clients are alike in law. flwr_datasets'
    DirichletPartitioner (0.6.1) rounds every cut down and gives what is left of each class to the last client: of 100
    classes of 18 samples, at alpha=0.1, the last of ten clients gets some of 98 and the others of 30.
    """

    alpha: Annotated[float, annotated_types.Gt(0), annotated_types.Le(1e6)] = 0.5
    """Concentration: below 1 a client sees few classes, from about 100 on the shards are near uniform."""

    min_size: Annotated[int, annotated_types.Ge(0)] = 10
    """Fewest samples a client may hold; the draw is repeated until all have them. 0 allows empty clients."""

    balanced: bool = False
    """a client that holds more than the mean size gets nothing of the classes that follow, which come in an order
    that is drawn: sizes differ less, and class shares follow no law"""

    @property
    def allow_empty(self) -> bool:
        """`min_size=0` allows empty clients."""
        return self.min_size == 0

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Draw until the smallest client holds `min_size` samples, at most DRAWS times."""
        n = len(samples)
        if self.min_size * clients > n:
            raise PartitionError(
                f"{clients} clients of at least min_size={self.min_size} need {self.min_size * clients} "
                f"samples, there are {n}; lower min_size to {n // clients} or less, or use fewer clients"
            )
        present, codes, counts = np.unique(samples.labels, return_inverse=True, return_counts=True)
        # Balancing goes through the classes in turn, and the last ones are the most skewed: in an order that is drawn.
        turns = rng.permutation(len(present)) if self.balanced else np.arange(len(present))
        largest = 0
        for _ in range(DRAWS):
            shares = rng.dirichlet(np.full(clients, self.alpha), len(present))
            cut = _balanced(shares, counts, turns) if self.balanced else largest_remainder(shares, counts)
            smallest = -1 if cut is None else int(cut.sum(axis=0).min())
            if cut is not None and smallest >= self.min_size:
                return Partition(_shards(codes, cut, rng))
            largest = max(largest, smallest)
        raise PartitionError(
            f"alpha={self.alpha:g} is too skewed for {clients} clients on {n} samples: in {DRAWS} draws the "
            f"smallest client held at most {largest}, min_size is {self.min_size}; "
            f"raise alpha, lower min_size or use fewer clients"
        )


def _balanced(shares: NDArray[np.float64], counts: Indices, turns: Indices) -> Indices | None:
    """(classes, clients) numbers of samples; a client that holds more than the mean gets none of the later classes.

    None where a class cannot be given out: all clients that may still get samples have a share of zero.
    """
    cut = np.zeros(shares.shape, np.int64)
    sizes, mean = np.zeros(shares.shape[1], np.int64), counts.sum() / shares.shape[1]
    for label in turns:
        share = np.where(sizes > mean, 0.0, shares[label])
        if not share.sum():
            return None
        cut[label] = largest_remainder(share, counts[label])
        sizes += cut[label]
    return cut


def _shards(codes: Indices, cut: Indices, rng: np.random.Generator) -> tuple[Indices, ...]:
    """One index array a client, with `cut` (classes, clients) samples of each class, drawn at random.

    `codes` are (n,) the classes of the samples, counted from 0.
    """
    classes, clients = cut.shape
    order = rng.permutation(len(codes))
    order = order[np.argsort(codes[order], kind="stable")]
    holders = np.repeat(np.tile(np.arange(clients), classes), cut.ravel())
    ends = np.cumsum(cut.sum(axis=0))[:-1]
    return tuple(rng.permutation(shard) for shard in np.split(order[np.argsort(holders, kind="stable")], ends))
