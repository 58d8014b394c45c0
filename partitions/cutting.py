"""Split each class among the clients that hold it."""

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
    """Split each class among the clients that hold it; sizes differ by at most one sample, larger parts are drawn.

    `holds` is (clients, classes), the classes in ascending order of those that `samples` have. Classes that no client
    holds are dropped. Raises PartitionError, whose message ends in `remedy`, where a class has fewer samples than
    clients that hold it.
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
