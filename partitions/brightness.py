"""Feature skew by brightness that grows with the client."""

from __future__ import annotations

from dataclasses import dataclass as plain
from typing import Annotated

import annotated_types
import numpy as np
from pydantic.dataclasses import dataclass

from partitions.composition import Skew, with_transforms
from partitions.contract import STRICT, Images, Partition, Samples


@dataclass(frozen=True, config=STRICT)
class Brightness(Skew):
    """Feature skew: images darker at the first client, brighter at the last, as they are in between; IID by itself.

    Client i of N multiplies every value by 1 + range·(2i/(N−1) − 1), i = 0 … N−1, and clips to [0, 1]: from 1 − range
    to 1 + range. A single client leaves them alone. The setting is ours.
    """

    range: Annotated[float, annotated_types.Gt(0), annotated_types.Lt(1)] = 0.5
    """how far the factors of the first and the last client are from 1"""

    def alter(self, partition: Partition, samples: Samples, rng: np.random.Generator) -> Partition:
        """Scale by one factor a client."""
        del samples, rng
        clients = len(partition.clients)
        factors = np.linspace(1 - self.range, 1 + self.range, clients).tolist() if clients > 1 else [1.0]
        return with_transforms(partition, [Scaled(factor) for factor in factors])


@plain(frozen=True)
class Scaled:
    """Images times a factor, clipped to [0, 1]."""

    factor: float

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Scale the images; nothing is random."""
        del rng
        scaled: Images = images * np.float32(self.factor)
        return np.clip(scaled, 0, 1, out=scaled)
