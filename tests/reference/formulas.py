"""Losses, merges, revisions and selections as the papers write them, a sample at a time."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.reference.world import stream


def divergence(objective: str, student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """(n,) how far each of (n, classes) student logits is from its teacher's: T² times a divergence of p^T, or MSE."""
    if objective == "mse":
        return (student - teacher).pow(2).mean(1)
    p, q = F.softmax(teacher / temperature, 1), F.softmax(student / temperature, 1)
    log_p, log_q = F.log_softmax(teacher / temperature, 1), F.log_softmax(student / temperature, 1)
    if objective == "kl":
        found = (p * (log_p - log_q)).sum(1)
    elif objective == "reverse_kl":
        found = (q * (log_q - log_p)).sum(1)
    else:
        log_m = ((p + q) / 2).log()
        found = ((p * (log_p - log_m)).sum(1) + (q * (log_q - log_m)).sum(1)) / 2
    return temperature**2 * found


def mean_of_logits(teachers: Tensor) -> Tensor:
    """(k, n, classes) → (n, classes)."""
    return teachers.sum(0) / len(teachers)


def mean_of_probabilities(teachers: Tensor, temperature: float = 1.0) -> Tensor:
    """(k, n, classes) → (n, classes) logits whose softmax at T is the mean of the teachers'."""
    log_p = F.log_softmax(teachers / temperature, -1)
    return temperature * (log_p.logsumexp(0) - math.log(len(teachers)))


def better_at(logits: Tensor, labels: Tensor | None) -> Tensor:
    """(…, n): the probability of the label where it is known, else the highest."""
    p = F.softmax(logits, -1)
    if labels is None:
        return p.max(-1).values
    return p.take_along_dim(labels.expand(p.shape[:-1])[..., None], -1).squeeze(-1)


def revised(logits: Tensor, labels: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Wrong predictions moved towards their label until it leads by 1 − η, and which they are."""
    p, at_label = F.softmax(logits.double(), 1), labels[:, None]
    wrong = logits.argmax(1) != labels
    beta = eta / (p.max(1, keepdim=True).values - p.take_along_dim(at_label, 1) + 1)
    mixed = beta * p
    mixed.scatter_add_(1, at_label, 1 - beta)
    # Nothing is smaller than the smallest normal number, whose logarithm is finite.
    result = mixed.clamp(min=torch.finfo(torch.float32).tiny).log().float()
    return torch.where(wrong[:, None], result, logits), wrong


def selected(
    kind: str, keep: float, teacher: Tensor, labels: Tensor | None, seed: int, client: int, round: int
) -> Tensor:
    """(n,) bool: which samples are distilled, by random, confidence or teacher_correct."""
    if kind == "teacher_correct":
        assert labels is not None
        return teacher.argmax(1) == labels
    if kind == "random":
        scores = torch.rand(len(teacher), generator=stream(seed, "select", client, round))
    else:
        scores = F.softmax(teacher, 1).max(1).values
    kept = torch.zeros(len(teacher), dtype=torch.bool)
    number = max(1, math.floor(round_off(keep * len(teacher))))
    kept[sorted(range(len(teacher)), key=lambda i: (-float(scores[i]), i))[:number]] = True
    return kept


def round_off(product: float) -> float:
    """A product such as 0.7·10 without what it falls short of the whole number."""
    return float(f"{product:.9f}")


def mean_of_weights(states: list[dict[str, Tensor]], shares: list[float]) -> dict[str, Tensor]:
    """Σ share·weights / Σ share, buffers too; whole numbers are rounded."""
    total, mean = sum(shares), {}
    for name, like in states[0].items():
        value = sum(state[name].double() * share for state, share in zip(states, shares, strict=True)) / total
        assert isinstance(value, Tensor)
        mean[name] = (value if like.is_floating_point() else value.round()).to(like.dtype)
    return mean
