"""How good predictions are."""

from __future__ import annotations

from torch import Tensor

from fedkd.losses import cross_entropy


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) whether each row of (n, classes) logits is highest at its (n,) label; rows that hold NaN are wrong."""
    return logits.argmax(dim=1).eq(labels) & ~logits.isnan().any(dim=1)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the n samples whose (n, classes) logits are highest at their (n,) label."""
    return float(right(logits, labels).double().mean())


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats."""
    return float(cross_entropy(logits.double(), labels))
