"""Scores of cells: validation accuracy and loss, and the best cell by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fedkd.node.node import Node
from fedkd.tensors.evaluate import accuracy, mean_loss
from fedkd.tensors.ties import rank_key
from fedkd.tuning.sampling import Direction

Select = Literal["val_accuracy", "val_loss"]

_WORST = 1e30
"""Sent instead of a loss that is not finite, because only finite numbers can be sent."""


def validated(client: Node) -> Tensor:
    """(2,) accuracy and loss of the client's student on its validation samples, float64; NaN where it has none."""
    val = client.val
    if val is None or val.y is None or not len(val):
        return torch.full((2,), math.nan, dtype=torch.float64)
    logits = client.predict(val.x)
    return torch.tensor([accuracy(logits, val.y), mean_loss(logits, val.y)], dtype=torch.float64)


def sendable(scores: Tensor) -> Tensor:
    """Scores as finite numbers: a loss that is not finite becomes the worst of all."""
    return scores.nan_to_num(nan=_WORST, posinf=_WORST)


def value(scores: Tensor, select: Select) -> float:
    """The mean of the deciding score over learners, from (learners, 2) scores. `direction` says which is better."""
    right, loss = rank_key(*scores.T.tolist())
    return float(-right) if select == "val_accuracy" else loss


def direction(select: Select) -> Direction:
    """Accuracy is maximised, loss minimised."""
    return "maximize" if select == "val_accuracy" else "minimize"


def ranked(scores: Tensor, select: Select) -> list[int]:
    """Cells by their scores, best first: by accuracy, then loss, then order; or by loss, then accuracy, then order.

    A loss that is not finite is larger than any other. Equal means are exactly equal: see `rank_key`.

    Args:
        scores: (cells, 2) accuracy and loss, or (learners, cells, 2), of which the means decide.
        select: what comes first.
    """
    right, loss = scores.reshape(-1, *scores.shape[-2:]).permute(2, 1, 0).tolist()
    ranks = [rank_key(*both) for both in zip(right, loss, strict=True)]
    if select == "val_accuracy":
        return sorted(range(len(ranks)), key=ranks.__getitem__)
    return sorted(range(len(ranks)), key=lambda cell: ranks[cell][::-1])


def best(scores: Tensor, select: Select, among: Sequence[int]) -> int:
    """The best cell by `scores` (see `ranked`) among the numbers `among`, ascending; 0 if there are none."""
    return among[ranked(scores[..., list(among), :], select)[0]] if among else 0
