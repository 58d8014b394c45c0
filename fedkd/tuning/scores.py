"""How good a cell is: validation accuracy and loss, and which cell is best by them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor

from fedkd.evaluate import accuracy, mean_loss
from fedkd.node import Node
from fedkd.tuning.sampling import Direction

Select = Literal["val_accuracy", "val_loss"]

_WORST = 1e30
"""What stands for a loss that is no number, where scores travel: only finite numbers do."""


def validated(client: Node) -> Tensor:
    """(2,) accuracy and loss of the client's student on its validation samples, float64; NaN where it has none."""
    val = client.val
    if val is None or val.y is None or not len(val):
        return torch.full((2,), math.nan, dtype=torch.float64)
    logits = client.predict(val.x)
    return torch.tensor([accuracy(logits, val.y), mean_loss(logits, val.y)], dtype=torch.float64)


def sendable(scores: Tensor) -> Tensor:
    """Scores as finite numbers: a loss that diverged is the worst of all."""
    return scores.nan_to_num(nan=_WORST, posinf=_WORST)


def value(score: Tensor, select: Select) -> float:
    """What a search makes large, or small: see `direction`."""
    return float(score[0] if select == "val_accuracy" else score[1])


def direction(select: Select) -> Direction:
    """Accuracy shall be large and loss small."""
    return "maximize" if select == "val_accuracy" else "minimize"


def ranked(scores: Tensor, select: Select) -> list[int]:
    """Rows of (cells, 2) scores, best first: by accuracy, then loss, then order; or by loss, then accuracy, then order.

    A loss that is no number is larger than any other.
    """
    clean = scores.nan_to_num(nan=math.inf, posinf=math.inf).tolist()

    def rank(row: int) -> tuple[float, float, int]:
        right, loss = clean[row]
        return (-right, loss, row) if select == "val_accuracy" else (loss, -right, row)

    return sorted(range(len(clean)), key=rank)


def best(scores: Tensor, select: Select, among: Sequence[int]) -> int:
    """Row of the best of (cells, 2) scores among some rows, ascending; 0 where there are none to choose from."""
    return among[ranked(scores[list(among)], select)[0]] if among else 0
