"""Classes to clients: cut each class among those who hold it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from partitions.partition import Indices, Partition, PartitionError, Samples


def cut_among_holders(
    samples: Samples,
    holds: NDArray[np.bool_],
    rng: np.random.Generator,
    remedy: str,
) -> Partition:
    """Cut each class into near-equal parts, one for each client that holds it; who gets the larger ones is drawn.

    `holds` is (clients, classes), the classes in ascending order of those that `samples` have. Classes that nobody
    holds are dropped. Raises PartitionError, with `remedy` as its end, where a class has fewer samples
    than holders.
    """
    present, members = np.unique(samples.labels, return_inverse=True)
    shards: list[list[Indices]] = [[] for _ in holds]
    dropped = [np.empty(0, np.int64)]
    for position, label in enumerate(present):
        indices = rng.permutation(np.flatnonzero(members == position))
        holders = np.flatnonzero(holds[:, position])
        if len(holders) > len(indices):
            raise PartitionError(
                f"class {label} has {len(indices)} samples, fewer than the {len(holders)} clients that "
                f"would share it; {remedy}"
            )
        if not len(holders):
            dropped.append(indices)
            continue
        # Who gets one sample more is drawn: over many classes, the same clients would come to hold many more.
        for holder, piece in zip(rng.permutation(holders), np.array_split(indices, len(holders)), strict=True):
            shards[holder].append(piece)
    return Partition(tuple(rng.permutation(np.concatenate(shard)) for shard in shards), np.concatenate(dropped))
