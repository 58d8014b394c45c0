"""Label skew at its greatest: no class on two clients."""

from __future__ import annotations

import numpy as np
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Partition, PartitionError, Samples, Strategy


@dataclass(frozen=True, config=STRICT)
class Disjoint(Strategy):
    """Label skew: every class belongs to one client alone, and clients hold as many classes as each other, ±1.

    Which classes a client has, and which clients have one more, is drawn. Nothing is dropped.
    """

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Give each client whole classes."""
        present, members = np.unique(samples.labels, return_inverse=True)
        if clients > len(present):
            raise PartitionError(
                f"{clients} clients cannot each have classes of their own: the samples have {len(present)}; "
                f"use at most {len(present)} clients, or pathological or shards, which share classes"
            )
        owner = np.empty(len(present), np.int64)
        # Two shuffles: one for the classes, one for the clients, so that no client is the larger one by its number.
        for client, classes in zip(
            rng.permutation(clients), np.array_split(rng.permutation(len(present)), clients), strict=True
        ):
            owner[classes] = client
        holder = owner[members]
        return Partition(tuple(rng.permutation(np.flatnonzero(holder == client)) for client in range(clients)))
