"""Soft predictions in little room: the highest logits of each row, and one number for all the others."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def pack(logits: Tensor, k: int) -> Tensor:
    """(rows, classes) logits → (rows, bytes) uint8: the k highest, their classes, and the log-sum-exp of the rest.

    Logarithms of probabilities in float16, 2 bytes each; a class is 1 byte where there are at most 256 of them, else 2,
    and 4 beyond 65,536. Sixteen of 256 classes take 50 bytes a row: 1 MB of text in bytes, 48 MiB.
    """
    logs = logits.float().log_softmax(1)
    k = min(k, logs.shape[1])
    highest, classes = logs.topk(k, dim=1)
    rest = (1 - highest.exp().sum(1, keepdim=True)).clamp(min=0).log()
    if k < logs.shape[1]:
        # Where the highest hold nearly everything, the difference from 1 has no digits left.
        rest = logs.scatter(1, classes, -math.inf).logsumexp(1, keepdim=True)
    values = torch.cat([highest, rest], 1).clamp(min=torch.finfo(torch.float16).min).half()
    return torch.cat([values.view(torch.uint8), classes.to(_name(logs.shape[1])).view(torch.uint8)], 1)


def unpack(packed: Tensor, classes: int) -> Tensor:
    """(rows, classes) float32 log-probabilities of what was packed, the rest spread evenly over the other classes."""
    name = _name(classes)
    k = (packed.shape[1] - 2) // (2 + name.itemsize)
    values = packed[:, : 2 * k + 2].contiguous().view(torch.float16).float()
    places = packed[:, 2 * k + 2 :].contiguous().view(name).long()
    if name == torch.int16:
        places &= 0xFFFF  # torch has no tensors of unsigned pairs that can be indexed with
    others = values[:, k:] - math.log(max(classes - k, 1))
    return others.expand(-1, classes).scatter(1, places, values[:, :k])


def _name(classes: int) -> torch.dtype:
    return torch.uint8 if classes <= 2**8 else torch.int16 if classes <= 2**16 else torch.int32
