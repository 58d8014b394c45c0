"""Quantity skew by a law: clients hold more or less of the same distribution."""

from __future__ import annotations

from typing import Annotated, Literal

import annotated_types
import numpy as np
from numpy.typing import NDArray
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Indices, Partition, PartitionError, Samples, Strategy
from partitions.rounding import largest_remainder

DRAWS = 1000
"""Draws before giving up: a count, not a time, so that a seed fails or succeeds alike on every machine."""
SPREADS = {"sigma": "lognormal", "alpha": "dirichlet"}
"""Which law a parameter belongs to."""


@dataclass(frozen=True, config=STRICT)
class Quantity(Strategy):
    """Quantity skew: IID labels, sizes by a law.

    "linear", "square" and "exponential" give client i = 1 … N shares in proportion to i, i² and eⁱ. "lognormal" draws
    shares in proportion to exp(sigma·z) with standard normal z; "dirichlet" draws them from a Dirichlet distribution,
    as Li et al. 2021 (arXiv 2102.02079) do. These two are drawn again until every client has `min_size`.

    Shares become whole samples by largest remainder. flwr_datasets' partitioners of the first three names (0.6.1)
    round every size down and give what is left to the last client: of 200,000 samples and 600 clients by "linear",
    964 instead of 666.
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
            sizes = largest_remainder(units, n)
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
        sizes = largest_remainder(_units(self.law, clients), n)
        if sizes[0] < self.min_size:
            raise PartitionError(
                f"law={self.law!r} leaves the first of {clients} clients {sizes[0]} of {n} samples, "
                f"min_size is {self.min_size}; use fewer clients{' or lower min_size' if sizes[0] else ''}"
            )
        return sizes


def _units(law: str, clients: int) -> NDArray[np.float64]:
    """(clients,) shares up to a factor, ascending."""
    number = np.arange(1.0, clients + 1)
    if law == "exponential":
        return np.asarray(np.exp(number - clients), np.float64)
    return number if law == "linear" else np.square(number)
