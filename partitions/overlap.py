"""Label skew in which clients have classes of their own and a few in common."""

from __future__ import annotations

from typing import Annotated

import annotated_types
import numpy as np
from pydantic.dataclasses import dataclass

from partitions.contract import STRICT, Partition, PartitionError, Samples, Strategy
from partitions.cutting import cut_among_holders


@dataclass(frozen=True, config=STRICT)
class Overlap(Strategy):
    """Label skew: every client has `own` classes that nobody else has and `shared` classes that all have.

    A class is cut equally among its holders. Which classes are shared, own or left over is drawn; the samples of
    classes left over are dropped and reported. The setting is ours: mostly unique classes with a few in common.
    """

    own: Annotated[int, annotated_types.Ge(1)] = 1
    """classes that a client alone has"""

    shared: Annotated[int, annotated_types.Ge(0)] = 1
    """classes that every client has"""

    def split(self, samples: Samples, clients: int, rng: np.random.Generator) -> Partition:
        """Draw the shared classes, then each client's own."""
        present = len(np.unique(samples.labels))
        needed = clients * self.own + self.shared
        if needed > present:
            raise PartitionError(
                f"{clients} clients with own={self.own} and shared={self.shared} need {needed} classes, the samples "
                f"have {present}; {self._remedy(present, clients)}"
            )
        order = rng.permutation(present)[:needed]
        holds = np.zeros((clients, present), np.bool_)
        holds[:, order[: self.shared]] = True
        np.put_along_axis(holds, order[self.shared :].reshape(clients, self.own), True, axis=1)
        return cut_among_holders(samples, holds, rng, "use fewer clients or lower shared")

    def _remedy(self, present: int, clients: int) -> str:
        """For a message: parameters that would fit the number of classes."""
        fewer = (present - self.shared) // self.own
        smaller = (present - self.shared) // clients
        if smaller > 0:
            return f"lower own to {smaller} or less, or use at most {fewer} clients"
        if fewer > 0:
            return f"use at most {fewer} clients or lower shared"
        return f"lower shared below {present} and own with it"
