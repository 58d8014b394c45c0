"""Independent, identically distributed shards."""

from __future__ import annotations

import numpy as np
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Partition, Samples, Strategy


@dataclass(frozen=True, config=STRICT)
class IID(Strategy):
    """Every client draws from the same distribution: shuffled samples, sizes that differ by at most one.

    Who holds one more is drawn.
    """

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Cut one shuffle into near-equal parts.

        flwr_datasets' IidPartitioner cuts without shuffling: on data sorted by class, the opposite of IID.
        """
        pieces = np.array_split(rng.permutation(len(samples)), clients)
        return Partition(tuple(pieces[index] for index in rng.permutation(clients)))
