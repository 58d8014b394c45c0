"""Feature skew by rotation that grows with the client."""

from __future__ import annotations

from dataclasses import dataclass as plain
from functools import lru_cache
from typing import Annotated

import annotated_types
import numpy as np
from pydantic.dataclasses import dataclass

from partitions.composition import Skew, with_transforms
from partitions.contract import STRICT, Images, Indices, Partition, Samples


@dataclass(frozen=True, config=STRICT)
class Rotation(Skew):
    """Feature skew: images turned, not at all at the first client and most at the last; IID by itself.

    Client i of N turns its images by degrees·i/(N−1), i = 0 … N−1, counter-clockwise about their centre; a single
    client leaves them alone. Bilinear between pixels, black outside of the image. After the rotated digits of
    Ghosh et al. 2020 (arXiv 2006.04088), with more angles.
    """

    degrees: Annotated[float, annotated_types.Ge(-360), annotated_types.Le(360)] = 45.0
    """angle at the last client; below 0 clockwise"""

    def alter(self, partition: Partition, samples: Samples, rng: np.random.Generator) -> Partition:
        """Turn by one angle a client."""
        del samples, rng
        angles = np.linspace(0, self.degrees, len(partition.clients)).tolist()
        return with_transforms(partition, [Turned(angle) for angle in angles])


@plain(frozen=True)
class Turned:
    """Images turned counter-clockwise by an angle in degrees."""

    degrees: float

    def __call__(self, images: Images, rng: np.random.Generator) -> Images:
        """Turn the images; nothing is random."""
        del rng
        if not self.degrees:
            return images.copy()
        height, width = images.shape[2:]
        pixels = images.reshape(-1, height * width)
        turned = np.zeros_like(pixels)
        for sources, weights in _corners(self.degrees, height, width):
            turned += pixels[:, sources] * weights
        # A sum of four weights may come out a rounding above 1.
        return np.clip(turned, 0, 1, out=turned).reshape(images.shape)


@lru_cache(maxsize=16)
def _corners(degrees: float, height: int, width: int) -> tuple[tuple[Indices, Images], ...]:
    """The four pixels that each pixel is mixed from: flat indices (height·width,), and weights, 0 off the image."""
    angle = np.deg2rad(degrees)
    # Multiples of 90 degrees are exact, not next to it.
    cosine, sine = np.round([np.cos(angle), np.sin(angle)], 15)
    y, x = np.indices((height, width)).reshape(2, -1)
    down, right = y - (height - 1) / 2, x - (width - 1) / 2
    # Where each pixel comes from; rows run downwards, so that this is counter-clockwise to the eye.
    from_y = cosine * down + sine * right + (height - 1) / 2
    from_x = cosine * right - sine * down + (width - 1) / 2
    top, left = np.floor(from_y).astype(np.int64), np.floor(from_x).astype(np.int64)
    corners = []
    for at_y, at_x in ((top, left), (top, left + 1), (top + 1, left), (top + 1, left + 1)):
        weight = (1 - np.abs(from_y - at_y)) * (1 - np.abs(from_x - at_x))
        inside = (at_y >= 0) & (at_y < height) & (at_x >= 0) & (at_x < width)
        corners.append((np.where(inside, at_y * width + at_x, 0), np.where(inside, weight, 0).astype(np.float32)))
    return tuple(corners)
