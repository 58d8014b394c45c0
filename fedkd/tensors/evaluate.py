"""Metrics of predictions. A row of predictions belongs to an image, or to one token of a chunk of text."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fedkd.tensors.losses import cross_entropy

LARGEST = 2**22
"""Numbers that are looked at in double precision at once: a text has a row of predictions a token."""


def right(logits: Tensor, labels: Tensor) -> Tensor:
    """(n,) bool: whether the arg max of each row of (n, classes) logits is its (n,) label. Rows with NaN are wrong."""
    return logits.argmax(dim=1).eq(labels) & ~logits.isnan().any(dim=1)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the n samples whose (n, classes) logits are highest at their (n,) label."""
    return float(right(logits, labels).double().mean())


def class_accuracies(logits: Tensor, labels: Tensor, correct: Tensor | None = None) -> dict[int, float]:
    """Accuracy on the samples of each class that has any, by class; `correct` is `right` of them, if it is known."""
    correct, number = right(logits, labels) if correct is None else correct, logits.shape[1]
    counts = torch.bincount(labels, minlength=number)
    hits = torch.bincount(labels, weights=correct.double(), minlength=number)
    return {label: float(hits[label] / counts[label]) for label in range(number) if counts[label]}


def calibration_error(logits: Tensor, labels: Tensor, bins: int = 15, correct: Tensor | None = None) -> float:
    """Expected calibration error: |accuracy − mean confidence| in equal bins of confidence, weighted by their samples.

    Guo et al. 2017, arXiv 1706.04599; 0 where the highest probability is as often right as it says.
    `correct` is `right` of the samples, if it is known.
    """
    confidence = torch.cat([part.double().softmax(dim=1).amax(dim=1) for part in _pieces(logits)])
    bin_index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    gap = (right(logits, labels) if correct is None else correct).double() - confidence
    return float(
        torch.zeros(bins, dtype=torch.float64, device=gap.device).index_add_(0, bin_index, gap).abs().sum()
    ) / len(labels)


def agreement(one: Tensor, other: Tensor) -> float:
    """Share of the n samples on which two (n, classes) predictions have the same arg max."""
    return float(one.argmax(dim=1).eq(other.argmax(dim=1)).double().mean())


def mean_loss(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats a row."""
    parts = _pieces(logits)
    losses = [
        float(cross_entropy(part.double(), piece_labels)) * (len(part) / len(logits))
        for part, piece_labels in zip(parts, torch.split(labels, [len(part) for part in parts]), strict=True)
    ]
    return math.fsum(losses)


def bits_per_byte(loss: float, labels: Tensor, token_bytes: Tensor) -> float:
    """Bits per byte of text; unlike the loss per token, it can be compared between tokenisers.

    Args:
        loss: mean cross-entropy of the next tokens, in nats a token.
        labels: (rows,) the tokens that were predicted.
        token_bytes: (vocabulary,) how many bytes each token stands for.
    """
    return loss * len(labels) / (math.log(2) * float(token_bytes[labels].sum()))


def _pieces(logits: Tensor) -> tuple[Tensor, ...]:
    """The rows in order, in pieces of at most LARGEST numbers."""
    return torch.split(logits, max(1, LARGEST // logits.shape[1]))
