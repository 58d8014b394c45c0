"""How good predictions are."""

from __future__ import annotations

from torch import Tensor

from fedkd.losses import cross_entropy


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the n samples whose (n, classes) logits are highest at their (n,) label."""
    return float((logits.argmax(dim=1) == labels).double().mean())


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats."""
    return float(cross_entropy(logits.double(), labels))
