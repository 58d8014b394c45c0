"""Global class imbalance: few classes have many samples, many have few."""

from __future__ import annotations

from typing import Annotated

import annotated_types
import numpy as np
from pydantic.dataclasses import dataclass

from partitions.composition import Thinning
from partitions.contract import STRICT, Indices, Samples


@dataclass(frozen=True, config=STRICT)
class LongTail(Thinning):
    """Class imbalance for all: class sizes fall exponentially from the first class to the last; IID by itself.

    The class of rank r among C keeps m·imbalance^(−r/(C−1)) samples, rounded, at least one, drawn by chance; the
    rest is dropped and reported. Cui et al. 2019 (arXiv 1901.05555), where the rank is the number of the class, as
    here. m is the largest head for which every class has enough, so that the profile is exact on uneven data too;
    that is ours, and on even data no difference.
    """

    imbalance: Annotated[float, annotated_types.Ge(1), annotated_types.Le(1e9)] = 100.0
    """size of the largest class over that of the smallest; 1 evens the classes out"""

    def keep(self, samples: Samples, rng: np.random.Generator) -> Indices:
        """The first of each class in a shuffle, as many as the class keeps."""
        _, members, counts = np.unique(samples.labels, return_inverse=True, return_counts=True)
        profile = self.imbalance ** -np.linspace(0, 1, len(counts))
        head = (counts / profile).min()
        sizes = np.clip(np.rint(head * profile).astype(np.int64), 1, counts)
        order = rng.permutation(len(samples))
        order = order[np.argsort(members[order], kind="stable")]
        rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
        return np.asarray(order[rank < np.repeat(sizes, counts)], np.int64)
