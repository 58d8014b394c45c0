"""What a federation trains and is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Labelled images of one size, with a fixed border between training and test.

    The tensors are mapped from a file in the cache: processes on one machine share their pages.
    """

    name: str
    """Source string as the user gave it."""

    images: Tensor
    """(n, channels, height, width) uint8, raw."""

    peak: int
    """Raw value that stands for 1.0: 255 for photographs, 16 for scikit-learn's digits."""

    labels: Tensor
    """(n,) int64 in 0..len(classes)-1."""

    classes: tuple[str, ...]
    """Name of each class, in the order of the labels."""

    train: Tensor
    """(m,) int64, ascending indices into images."""

    test: Tensor
    """(n - m,) int64, ascending indices into images; disjoint from `train`."""

    columns: dict[str, NDArray[Any]]
    """Further arrays with one entry an image (first length n), for example who wrote a digit."""

    fingerprint: str
    """sha256 of the content: images, labels, classes, peak and border, not how they were stored."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(channels, height, width) of every image."""
        _, channels, height, width = self.images.shape
        return channels, height, width

    def pixels(self, indices: Tensor) -> Tensor:
        """(k, channels, height, width) float32 in [0, 1] of the (k,) int64 `indices` into images."""
        return self.images[indices].to(torch.float32).div_(self.peak)
