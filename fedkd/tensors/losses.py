"""Distillation losses: pure functions on logits, means over the batch, in natural logarithms.

Axes: logits are (n, classes); a loss returns the mean over the n samples as a scalar, in which each counts as much as
its weight: those of weight 0 add nothing, and the others count no more for it. Gradients flow into the
student's logits only; teachers' logits are data. All divergences are true divergences: equal predictions give 0
(0·log 0 = 0), which a cross-entropy against soft labels would not.
"""

from __future__ import annotations

import math
from typing import Annotated

import torch
import torch.nn.functional as F
from annotated_types import Interval
from torch import Tensor


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Mean of −log p_s[y]; `labels` are (n,) int64."""
    return F.cross_entropy(student, labels)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, weights: Tensor | None = None) -> Tensor:
    """T²·KL(p_t^T ‖ p_s^T), p^T = softmax(z / T) (Hinton et al., arXiv 1503.02531).

    T² keeps the gradient's size comparable over temperatures.

    >>> z = torch.tensor([[1.0, 2.0]])
    >>> float(kl(z, z + 5.0))
    0.0
    """
    log_student, log_teacher = _log_probabilities(student, teacher, temperature)
    return _mean(_divergence(log_teacher, log_student), weights) * temperature**2


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0, weights: Tensor | None = None) -> Tensor:
    """T²·KL(p_s^T ‖ p_t^T): the student avoids what its teacher finds unlikely."""
    log_student, log_teacher = _log_probabilities(student, teacher, temperature)
    return _mean(_divergence(log_student, log_teacher), weights) * temperature**2


def js(student: Tensor, teacher: Tensor, temperature: float = 1.0, weights: Tensor | None = None) -> Tensor:
    """T²·JS(p_t^T, p_s^T), the mean of both divergences to the midpoint; at most T²·log 2."""
    log_student, log_teacher = _log_probabilities(student, teacher, temperature)
    log_middle = torch.logaddexp(log_student, log_teacher) - math.log(2)
    both = _divergence(log_student, log_middle) + _divergence(log_teacher, log_middle)
    return _mean(both / 2, weights) * temperature**2


def mse(student: Tensor, teacher: Tensor, temperature: float = 1.0, weights: Tensor | None = None) -> Tensor:
    """Mean over samples and classes of (z_s − z_t)²; it has no temperature."""
    del temperature  # one signature for all objectives
    return _mean((student - teacher.detach()).square().mean(dim=1), weights)


def _log_probabilities(student: Tensor, teacher: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    log_student = F.log_softmax(student / temperature, dim=1)
    return log_student, F.log_softmax(teacher.detach() / temperature, dim=1)


def _divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """(n,) KL(p ‖ q) of (n, classes) log-probabilities."""
    p = log_p.exp()
    return torch.where(p > 0, p * (log_p - log_q), 0.0).sum(dim=1)  # 0·log 0 = 0, also where log 0 is −∞


def _mean(values: Tensor, weights: Tensor | None) -> Tensor:
    """Mean over all n of (n,) values times their weights."""
    return values.mean() if weights is None else (values * weights).mean()


Temperature = Annotated[float, Interval(ge=0.01, le=10_000)]
"""T of a soft prediction. Beyond these bounds float32 has nothing left to tell the classes apart by."""

OBJECTIVES = {"kl": kl, "reverse_kl": reverse_kl, "js": js, "mse": mse}
"""The distillation objectives by the name that spec strings use."""
