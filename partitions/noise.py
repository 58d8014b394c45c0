"""Feature skew by noise that grows with the client."""

from __future__ import annotations

from dataclasses import dataclass as plain
from typing import Annotated

import annotated_types
import numpy as np
from pydantic.dataclasses import dataclass

from partitions.composition import Skew, with_transforms
from partitions.contract import STRICT, Images, Partition, Samples


@dataclass(frozen=True, config=STRICT)
class Noise(Skew):
    """Feature skew: Gaussian noise on the images, none at the first client and most at the last; IID by itself.

    Client i of N adds independent noise of standard deviation sigma·i/(N−1), i = 0 … N−1, to every value and clips
    to [0, 1]; a single client adds none. Li et al. 2021 (arXiv 2102.02079): their text has the *variance*
    sigma·i/N, the code of their benchmark the standard deviation that is used here.
    """

    sigma: Annotated[float, annotated_types.Gt(0), annotated_types.Le(100)] = 0.5
    """standard deviation at the last client, where images lie in [0, 1]"""

    def alter(self, partition: Partition, samples: Samples, rng: np.random.Generator) -> Partition:
        """Add one level of noise a client."""
        del samples, rng
        levels = np.linspace(0, self.sigma, len(partition.clients)).tolist()
        return with_transforms(partition, [Noisy(level) for level in levels])


@plain(frozen=True)
class Noisy:
    """Images with Gaussian noise, clipped to [0, 1]."""

    sigma: float

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Draw the noise anew; the same generator gives the same."""
        if not self.sigma:
            return images.copy()
        noisy = rng.standard_normal(images.shape, np.float32)
        noisy *= np.float32(self.sigma)
        noisy += images
        return np.clip(noisy, 0, 1, out=noisy)
