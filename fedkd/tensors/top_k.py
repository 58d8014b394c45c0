"""Soft predictions in few bytes: the highest logits of each row, and one number for all the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pack(logits: Tensor, k: int) -> Tensor:
    """(rows, classes) logits → (rows, bytes) uint8: the k highest, their classes, and what the rest is on average.

    Logits below the highest of the row in float16, 2 bytes each; the rest is the logarithm of its mean e^z. A class is
    1 byte where there are at most 256 of them, else 2, and 4 beyond 65,536. Sixteen of 256 classes take 50 bytes a row:
    1 MB of text in bytes, 48 MiB. What was unpacked is packed to the same again, so that soft predictions are rounded
    once however often they travel.
    """
    k = min(k, logits.shape[1])
    below = logits.float() - logits.float().amax(1, keepdim=True)
    highest, classes = below.topk(k, dim=1)
    rest = torch.full_like(highest[:, :1], -math.inf)
    if k < logits.shape[1]:
        others = below.scatter(1, classes, -math.inf)
        top = others.amax(1, keepdim=True)
        # Relative to its highest, the mean of equal numbers is exactly that number.
        rest = top + ((others - top).exp().sum(1, keepdim=True) / (logits.shape[1] - k)).log()
    values = torch.cat([highest, rest], 1).clamp(min=torch.finfo(torch.float16).min).half()
    return torch.cat([values.view(torch.uint8), classes.to(_name(logits.shape[1])).view(torch.uint8)], 1)


def unpack(packed: Tensor, classes: int) -> Tensor:
    """(rows, classes) float32 logits from the bytes of `pack`: the highest of a row is 0, those not sent are equal."""
    name = _name(classes)
    k = (packed.shape[1] - 2) // (2 + name.itemsize)
    # A copy, not `contiguous`: a single row is that already, with a stride that no larger type can be viewed with.
    values, indices = (part.clone(memory_format=torch.contiguous_format) for part in _parts(packed, k))
    values, indices = values.view(torch.float16).float(), indices.view(name).long()
    if name == torch.int16:
        indices &= 0xFFFF  # torch has no tensors of unsigned pairs that can be indexed with
    return values[:, k:].expand(-1, classes).scatter(1, indices, values[:, :k])


def packed_size(classes: int, k: int) -> int:
    """Bytes of a row of the k highest logits, as `pack` makes them."""
    k = min(k, classes)
    return 2 * k + 2 + k * _name(classes).itemsize


def _parts(packed: Tensor, k: int) -> tuple[Tensor, Tensor]:
    return packed[:, : 2 * k + 2], packed[:, 2 * k + 2 :]


def _name(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 2**8 else torch.int16 if classes <= 2**16 else torch.int32
