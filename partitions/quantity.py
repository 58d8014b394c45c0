"""Quantity skew by a law: clients hold more or less of the same distribution."""

from __future__ import annotations

from typing import Annotated, Literal

import annotated_types
import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Indices, Partition, PartitionError, Samples, Strategy

DRAWS = 1000
"""Draws before giving up: a count, not a time, so that a seed fails or succeeds alike on every machine."""
SPREADS = {"sigma": "lognormal", "alpha": "dirichlet"}
"""Which law a parameter belongs to."""


@dataclass(frozen=True, config=STRICT)
class Quantity(Strategy):
    """Quantity skew: IID labels, sizes by a law.

    "linear", "square" and "exponential" give client i = 1 … N shares in proportion to i, i² and eⁱ, through
    flwr_datasets' partitioners of these names; what rounding leaves goes to the last client. "lognormal" draws shares
    in proportion to exp(sigma·z) with standard normal z; "dirichlet" draws them from a Dirichlet distribution, as Li
    et al. 2021 (arXiv 2102.02079) do. These two are drawn again until every client has `min_size`.
    """

    law: Literal["linear", "square", "exponential", "lognormal", "dirichlet"] = "linear"
    """how sizes depend on the client's number, or are drawn"""

    sigma: Annotated[float, annotated_types.Gt(0), annotated_types.Le(100)] | None = None
    """for lognormal: standard deviation of the logarithm of a size; 1.0 where not given"""

    alpha: Annotated[float, annotated_types.Gt(0), annotated_types.Le(1e6)] | None = None
    """for dirichlet: concentration, from few large clients (0.1) to equal ones (100); 1.0 where not given"""

    min_size: Annotated[int, annotated_types.Ge(1)] = 2
    """fewest samples a client may hold"""

    def __post_init__(self) -> None:
        for name, law in SPREADS.items():
            if getattr(self, name) is not None and self.law != law:
                raise ValueError(f"{name} is for law={law!r}, found law={self.law!r}; leave one of them out")

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Shuffle, then cut at sizes by the law."""
        n = len(samples)
        if self.min_size * clients > n:
            raise PartitionError(
                f"{clients} clients of at least min_size={self.min_size} need {self.min_size * clients} samples, "
                f"there are {n}; lower min_size to {n // clients} or less, or use fewer clients"
            )
        order = rng.permutation(n)
        sizes = self._drawn(n, clients, rng) if self.law in SPREADS.values() else self._lawful(n, clients)
        return Partition(tuple(np.split(order, np.cumsum(sizes)[:-1])))

    def _drawn(self, n: int, clients: int, rng: np.random.Generator) -> Indices:
        """(clients,) sizes by a law that draws."""
        largest = 0
        for _ in range(DRAWS):
            if self.law == "lognormal":
                exponents = (1.0 if self.sigma is None else self.sigma) * rng.standard_normal(clients)
                units = np.exp(exponents - exponents.max())
            else:
                units = rng.dirichlet(np.full(clients, 1.0 if self.alpha is None else self.alpha))
            sizes = _cut(units, n)
            if sizes.min() >= self.min_size:
                return sizes
            largest = max(largest, int(sizes.min()))
        raise PartitionError(
            f"law={self.law!r} is too skewed for {clients} clients on {n} samples: in {DRAWS} draws the smallest "
            f"client held at most {largest}, min_size is {self.min_size}; "
            f"{'lower sigma' if self.law == 'lognormal' else 'raise alpha'}, lower min_size or use fewer clients"
        )

    def _lawful(self, n: int, clients: int) -> Indices:
        """(clients,) sizes by a law of the client's number."""
        # Foreseen, because the partitioner refuses an empty client without saying what would help, and its eⁱ
        # overflows from the 710th client on.
        units = _units(self.law, clients)
        smallest = int(units[0] / units.sum() * n)
        if clients > 1 and smallest < self.min_size:
            raise PartitionError(
                f"law={self.law!r} leaves the first of {clients} clients {smallest} of {n} samples, "
                f"min_size is {self.min_size}; use fewer clients{' or lower min_size' if smallest else ''}"
            )
        return _flower(self.law, n, clients)


def _units(law: str, clients: int) -> NDArray[np.float64]:
    """(clients,) shares up to a factor, ascending."""
    number = np.arange(1.0, clients + 1)
    if law == "exponential":
        return np.asarray(np.exp(number - clients), np.float64)
    return number if law == "linear" else np.square(number)


def _cut(units: NDArray[np.float64], n: int) -> Indices:
    """(clients,) whole sizes in proportion to `units` that add up to n: cut where the running share is."""
    ends = np.rint(np.cumsum(units) / units.sum() * n).astype(np.int64)
    ends[-1] = n
    return np.asarray(np.diff(ends, prepend=0), np.int64)


def _flower(law: str, n: int, clients: int) -> Indices:
    """(clients,) sizes of flwr_datasets' partitioner for a law."""
    # Imported here because it takes two seconds, and listing the strategies must not.
    from datasets import Dataset
    from flwr_datasets.partitioner import ExponentialPartitioner, LinearPartitioner, SquarePartitioner

    laws = {"linear": LinearPartitioner, "square": SquarePartitioner, "exponential": ExponentialPartitioner}
    partitioner = laws[law](clients)
    partitioner.dataset = Dataset.from_dict({"position": np.arange(n)})
    partitioner.num_partitions  # noqa: B018  (reading it makes the cut)
    return np.array([partitioner.partition_id_to_size[client] for client in range(clients)], np.int64)
