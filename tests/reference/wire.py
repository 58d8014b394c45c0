"""What travels, as the other side reads it, and what it costs: arrays in NumPy's .npy format, without their names."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def cost(array: NDArray[Any]) -> int:
    """Bytes of one array in a file of its own."""
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return len(file.getvalue())


NUMBER = cost(np.zeros((), np.int64))
"""Bytes of a single number of 64 bits."""


def cost_of(tensors: Mapping[str, Tensor]) -> int:
    """Bytes of a model, buffers included."""
    return sum(cost(tensor.numpy()) for tensor in tensors.values())


def sent(logits: Tensor, wire: str) -> tuple[Tensor, int]:
    """(…, classes) soft predictions as they are read, and the bytes that they cost."""
    values, classes = logits.numpy(), logits.shape[-1]
    if match := re.fullmatch(r"top\((\d+)\)", wire):
        k = int(match[1])
        if 2 * (k + 1) + k < 2 * classes:
            return _highest(values.reshape(-1, classes), values.shape, k)
        wire = "float16"  # where that is no more
    kind = np.dtype(wire)
    limit = np.finfo(kind).max
    array = np.clip(values, -limit, limit).astype(kind)
    return torch.from_numpy(array.astype(np.float32)), cost(array)


def _highest(values: NDArray[Any], shape: tuple[int, ...], k: int) -> tuple[Tensor, int]:
    """The k highest logits of a row less its highest, their classes in a byte each, and the others' mean e^z."""
    classes = values.shape[1]
    below = values - values.max(1, keepdims=True)
    # A merge of two soft predictions has equal logits. Which of them are among the k is not promised: as torch does.
    chosen = torch.from_numpy(below).topk(k, 1).indices.numpy()
    others = np.ones_like(below)
    np.put_along_axis(others, chosen, 0, 1)
    rest = np.log((np.exp(below.astype(np.float64)) * others).sum(1, keepdims=True) / (classes - k)).astype(np.float16)
    highest = np.take_along_axis(below, chosen, 1).astype(np.float16)
    read = np.repeat(rest.astype(np.float32), classes, axis=1)
    np.put_along_axis(read, chosen, highest.astype(np.float32), 1)
    array = np.zeros((*shape[:-1], 2 * (k + 1) + k), np.uint8)
    return torch.from_numpy(read.reshape(shape)), cost(array)
