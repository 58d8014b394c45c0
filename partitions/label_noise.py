"""Label noise: some clients have some of their labels wrong."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import annotated_types
import numpy as np
from pydantic.dataclasses import dataclass

from partitions.composition import Skew
from partitions.contract import STRICT, Partition, PartitionError, Samples


@dataclass(frozen=True, config=STRICT)
class LabelNoise(Skew):
    """Label noise: on chosen clients a share of the labels is replaced by another class; IID by itself.

    Of a chosen client's n samples, exactly round(rate·n) are drawn and get another label: "symmetric" one drawn
    from all other classes, "pair" the next class, after the last the first (Han et al. 2018, arXiv 1804.06872).
    Training and validation labels are hit alike; labels of the transfer set and of every test stay true.
    """

    rate: Annotated[float, annotated_types.Gt(0), annotated_types.Le(1)] = 0.2
    """share of a chosen client's labels that are wrong; a half rounds to even"""

    clients: tuple[Annotated[int, annotated_types.Ge(0)], ...] = ()
    """ids of the chosen clients; none: all"""

    kind: Literal["symmetric", "pair"] = "symmetric"
    """which class a wrong label names: any other, or the next"""

    def alter(self, partition: Partition, samples: Samples, rng: np.random.Generator) -> Partition:
        """Replace labels; where an earlier term has replaced some, its labels are the ones to replace."""
        labels = (samples.labels if partition.labels is None else partition.labels).copy()
        present = np.unique(samples.labels)
        count = len(partition.clients)
        if len(present) < 2:
            raise PartitionError(f"label noise needs at least 2 classes; all samples are of class {present[0]}")
        if unknown := sorted(client for client in self.clients if client >= count):
            raise PartitionError(f"clients names client {unknown[0]}, but there are {count}; ids are 0 to {count - 1}")
        for client in sorted(set(self.clients)) or range(count):
            indices = partition.clients[client]
            hit = rng.choice(indices, round(self.rate * len(indices)), replace=False, shuffle=False)
            # Any step but a whole turn round the classes leads to another class, each as likely.
            steps = rng.integers(1, len(present), len(hit)) if self.kind == "symmetric" else 1
            labels[hit] = present[(np.searchsorted(present, labels[hit]) + steps) % len(present)]
        return replace(partition, labels=labels)
