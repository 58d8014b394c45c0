"""Natural partitions: a column of the data names the owner of each sample."""

from __future__ import annotations

import difflib
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Indices, Partition, PartitionError, Samples, Strategy


@dataclass(frozen=True, config=STRICT)
class ByColumn(Strategy):
    """Natural: the values of a column, such as writers, sites or users, are the clients.

    As many clients as there are values: one each, in ascending order. Fewer clients: groups of values, dealt from
    the largest to the smallest, each to the client with the fewest samples so far, so that clients are as even as
    that makes them; ties are drawn. Test samples go to their own value's client; those of other values are dropped.
    """

    name: str = "client"
    """column of the data set: one whole number, text or boolean a sample"""

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Give every value to one client.

        flwr_datasets' NaturalIdPartitioner goes sample by sample with a progress bar and knows no groups.
        """
        values, members, counts = np.unique(self._column(samples), return_inverse=True, return_counts=True)
        if clients > len(values):
            raise PartitionError(
                f"column {self.name!r} has {len(values)} values for {clients} clients; "
                f"use at most {len(values)} clients"
            )
        owner = np.arange(clients) if clients == len(values) else _grouped(counts, clients, rng)
        order = rng.permutation(len(samples))
        holders = owner[members[order]]
        ends = np.cumsum(np.bincount(holders, minlength=clients))[:-1]
        return Partition(tuple(np.split(order[np.argsort(holders, kind="stable")], ends)))

    def local_test(self, partition: Partition, samples: Samples, test: Samples, rng: np.random.Generator) -> Partition:
        """Give test samples to the client that holds the training samples of the same value."""
        del rng
        known, asked = self._column(samples), self._column(test)
        holders = np.repeat(np.arange(len(partition.clients)), [len(indices) for indices in partition.clients])
        values, first = np.unique(known[np.concatenate(partition.clients)], return_index=True)
        nearest = np.minimum(np.searchsorted(values, asked), len(values) - 1)
        owner = np.where(values[nearest] == asked, holders[first][nearest], -1)
        shards = tuple(np.flatnonzero(owner == client) for client in range(len(partition.clients)))
        return Partition(shards, np.flatnonzero(owner == -1))

    def _column(self, samples: Samples) -> NDArray[Any]:
        """(n,) values of the column."""
        if self.name not in samples.columns:
            there = sorted(samples.columns)
            close = difflib.get_close_matches(self.name, there, n=1, cutoff=0.5)
            hint = f"did you mean {close[0]!r}? " if close else ""
            listing = f"columns: {', '.join(there)}" if there else "the data set has no columns"
            raise PartitionError(f"there is no column name={self.name!r}; {hint}{listing}")
        column = samples.columns[self.name]
        if column.ndim != 1 or column.dtype.kind not in "iubU":
            raise PartitionError(
                f"column {self.name!r} is {column.dtype} of shape {column.shape}; "
                f"one whole number, text or boolean a sample is needed"
            )
        return column


def _grouped(counts: Indices, clients: int, rng: np.random.Generator) -> Indices:
    """(values,) owner of each value, from the samples that it has; every client gets at least one value."""
    owner = np.empty(len(counts), np.int64)
    load = np.zeros(clients, np.int64)
    lots = rng.permutation(len(counts))
    for value in lots[np.argsort(-counts[lots], kind="stable")]:
        client = int(load.argmin())
        owner[value] = client
        load[client] += counts[value]
    return owner
