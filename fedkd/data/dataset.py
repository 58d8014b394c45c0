"""What a federation trains and is tested on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Dataset:
    """Samples of one size, images or chunks of text, with a fixed border between training and test.

    Partitions use the labels: the class of an image, or the domain of a chunk. A model predicts one of the `outputs`:
    the class of an image, or the next token after each token of a chunk.

    The tensors are mapped from a file in the cache: processes on one machine share their pages.
    """

    name: str
    """Source string as the user gave it."""

    samples: Tensor
    """(n, channels, height, width) uint8 images, raw, or (n, length + 1) tokens of text in a type just large enough."""

    peak: int
    """Raw value of an image that stands for 1.0: 255 for photographs, 16 for scikit-learn's digits; 0 for text."""

    labels: Tensor
    """(n,) int64 in 0..len(classes)-1."""

    classes: tuple[str, ...]
    """Name of each class, or domain of text, in the order of the labels."""

    train: Tensor
    """(m,) int64, ascending indices into the samples."""

    test: Tensor
    """(n - m,) int64, ascending indices into the samples; disjoint from `train`."""

    columns: dict[str, NDArray[Any]]
    """Further arrays with one entry a sample (first length n), for example who wrote a digit."""

    fingerprint: str
    """sha256 of the content: samples, labels, classes, peak, vocabulary, border, columns; not how it was stored."""

    vocabulary: tuple[bytes, ...] = ()
    """The bytes that each token stands for; empty: images."""

    @property
    def images(self) -> Tensor:
        """(n, channels, height, width) uint8, raw."""
        return self.samples

    @property
    def shape(self) -> tuple[int, ...]:
        """(channels, height, width) of every image, or (length,) of every chunk."""
        return (self.samples.shape[1] - 1,) if self.vocabulary else tuple(self.samples.shape[1:])

    @property
    def outputs(self) -> tuple[str, ...] | tuple[bytes, ...]:
        """What a model tells apart: the classes, or the tokens."""
        return self.vocabulary or self.classes

    @property
    def token_bytes(self) -> Tensor | None:
        """(vocabulary,) int64, how many bytes each token stands for; None for images."""
        return torch.tensor([len(token) for token in self.vocabulary]) if self.vocabulary else None

    def pairs(self, indices: Tensor) -> tuple[Tensor, Tensor]:
        """What models see of the samples at (k,) int64 `indices`, and what they shall predict, one row each.

        Pixels and (k,) labels, or (k, length) int64 tokens and the (k·length,) that follow them, chunk by chunk.
        """
        if not self.vocabulary:
            return self.pixels(indices), self.labels[indices]
        chunks = self.samples[indices].long()
        return chunks[:, :-1], chunks[:, 1:].flatten()

    def pixels(self, indices: Tensor) -> Tensor:
        """(k, channels, height, width) float32 in [0, 1] of the (k,) int64 `indices` into images."""
        return self.samples[indices].to(torch.float32).div_(self.peak)
