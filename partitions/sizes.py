"""Quantity skew to measure: the size of every client, as given."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated

import numpy as np
from pydantic import AfterValidator
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Indices, Partition, PartitionError, Samples, Strategy


def _size(size: int | float) -> int | float:
    if size <= 0 or (isinstance(size, float) and size > 1):
        raise ValueError("a size is a whole number of samples, 1 or more, or a share of all, above 0 and at most 1.0")
    return size


Size = Annotated[int | float, AfterValidator(_size)]
"""An entry of `sizes`: whole numbers are samples, all others shares."""


@dataclass(frozen=True, config=STRICT)
class Sizes(Strategy):
    """Quantity skew: client i holds as many samples as the i-th size says, drawn IID; what is left is dropped.

    Sizes are all numbers of samples (`sizes=[500, 100, 20]`), or all shares of the samples that there are
    (`sizes=[0.6, 0.3, 0.1]`).
    """

    sizes: tuple[Size, ...]
    """one a client: samples, or shares of all samples"""

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Cut one shuffle at the sizes.

        flwr_datasets' SizePartitioner cuts without shuffling, knows no shares and warns of what is left; the cut
        after a shuffle is one line.
        """
        pieces = np.split(rng.permutation(len(samples)), np.cumsum(resolved(self.sizes, len(samples), clients)))
        return Partition(tuple(pieces[:-1]), pieces[-1])


def resolved(sizes: Sequence[int | float], n: int, clients: int) -> Indices:
    """(clients,) numbers of samples that sizes or shares stand for, of `n` samples.

    Shares are rounded so that their sum is the rounded sum: by largest remainder, ties to the lowest client.
    Raises PartitionError where they are not one a client, mixed, too many, or a share comes to no sample.
    """
    if len(sizes) != clients:
        raise PartitionError(f"sizes has {len(sizes)} entries for {clients} clients; one each is needed")
    shares = {isinstance(size, float) for size in sizes}
    if len(shares) > 1:
        raise PartitionError(
            f"sizes mixes numbers of samples and shares: {_listed(sizes)}; write all as whole numbers, or all as 0.…"
        )
    total = sum(sizes)
    if shares == {False}:
        if total > n:
            raise PartitionError(f"sizes add up to {total} samples, there are {n}; lower them")
        return np.array(sizes, np.int64)
    if total > 1 + 1e-9:
        raise PartitionError(f"sizes are shares that add up to {total:g}; they must not exceed 1")
    exact = np.array(sizes, np.float64) * n
    whole: Indices = np.floor(exact + 1e-9).astype(np.int64)
    up = min(round(float(exact.sum())), n) - int(whole.sum())
    whole[np.argsort(whole - exact, kind="stable")[: max(up, 0)]] += 1
    if not whole.min():
        client = int(whole.argmin())
        raise PartitionError(
            f"sizes[{client}] = {sizes[client]:g} of {n} samples is none for client {client}; "
            f"give it {1 / n:.2g} or more"
        )
    return whole


def _listed(sizes: Sequence[int | float]) -> str:
    shown = ", ".join(map(str, sizes[:6]))
    return f"[{shown}, …]" if len(sizes) > 6 else f"[{shown}]"
