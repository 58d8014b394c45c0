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
    if wire != "float16" and wire != "float32":
        match = re.fullmatch(r"top\((\d+)\)", wire)
        assert match is not None
        return _highest(values.reshape(-1, classes), values.shape, int(match[1]))
    kind = np.dtype(wire)
    limit = np.finfo(kind).max
    array = np.clip(values, -limit, limit).astype(kind)
    return torch.from_numpy(array.astype(np.float32)), cost(array)


def _highest(values: NDArray[Any], shape: tuple[int, ...], k: int) -> tuple[Tensor, int]:
    """The k highest log-probabilities of a row, their classes in a byte each, and the rest in one number."""
    classes = values.shape[1]
    logs = values.astype(np.float64)
    logs -= np.log(np.exp(logs - logs.max(1, keepdims=True)).sum(1, keepdims=True)) + logs.max(1, keepdims=True)
    order = np.argsort(-logs, axis=1, kind="stable")
    rest = np.log(np.exp(np.take_along_axis(logs, order[:, k:], 1)).sum(1, keepdims=True))
    highest = np.take_along_axis(logs, order[:, :k], 1).astype(np.float16).astype(np.float32)
    read = np.repeat(rest.astype(np.float16).astype(np.float32) - np.float32(np.log(classes - k)), classes, axis=1)
    np.put_along_axis(read, order[:, :k], highest, 1)
    array = np.zeros((*shape[:-1], 2 * (k + 1) + k), np.uint8)
    return torch.from_numpy(read.reshape(shape)), cost(array)
