"""Samples in memory, and the rows of predictions that belong to them."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fedkd.tensors.devices import on_device


@dataclass(frozen=True, eq=False)
class Data:
    """Samples of one split, in memory."""

    x: Tensor
    """(n, channels, height, width) float32 in [0, 1], or (n, length) int64 tokens"""
    y: Tensor | None
    """(rows,) int64: what is right in each row of predictions, or None where no method may know it. An image has one
    row, its class; a chunk of text has `length` rows, the token after each of its tokens"""

    def __len__(self) -> int:
        return len(self.x)

    def to(self, device: torch.device) -> Data:
        """The same samples on a device; what is there already is not copied again."""
        return Data(on_device(self.x, device), None if self.y is None else on_device(self.y, device))


def rows_a_sample(x: Tensor) -> int:
    """How many rows of predictions a model gives for each sample in x: one for an image, one a token for text."""
    return 1 if x.is_floating_point() else x.shape[1]


def rows_of(values: Tensor, index: Tensor, samples: int) -> Tensor:
    """The rows of the samples at (b,) `index`, sample by sample, out of the rows of all `samples`.

    `values` are (samples·r, …), r rows a sample: logits, labels or weights; the result is (b·r, …).
    """
    if len(values) == samples:
        return values[index]
    return values.reshape(samples, -1, *values.shape[1:])[index].flatten(0, 1)
