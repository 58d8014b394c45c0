"""Distillation losses: pure functions on logits, batch means, in natural logarithms.

Axes: logits are (n, classes); a loss returns the mean over the n samples as a scalar. Gradients flow into the
student's logits only; teachers' logits are data. All divergences are true divergences: equal predictions give 0
(0·log 0 = 0), which a cross-entropy against soft labels would not.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def cross_entropy(student: Tensor, labels: Tensor) -> Tensor:
    """Mean of −log p_s[y]; `labels` are (n,) int64."""
    return F.cross_entropy(student, labels)


def kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(p_t^T ‖ p_s^T), p^T = softmax(z / T) (Hinton et al., arXiv 1503.02531).

    T² keeps the gradient's size comparable over temperatures.

    >>> z = torch.tensor([[1.0, 2.0]])
    >>> float(kl(z, z + 5.0))
    0.0
    """
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    return F.kl_div(log_student, log_teacher, reduction="batchmean", log_target=True) * temperature**2


def reverse_kl(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·KL(p_s^T ‖ p_t^T): the student avoids what its teacher finds unlikely."""
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    return F.kl_div(log_teacher, log_student, reduction="batchmean", log_target=True) * temperature**2


def js(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:
    """T²·JS(p_t^T, p_s^T), the mean of both divergences to the midpoint; at most T²·log 2."""
    log_student = F.log_softmax(student / temperature, dim=1)
    log_teacher = F.log_softmax(teacher.detach() / temperature, dim=1)
    log_middle = torch.logaddexp(log_student, log_teacher) - torch.log(student.new_tensor(2.0))
    divergences = [
        F.kl_div(log_middle, side, reduction="batchmean", log_target=True) for side in (log_student, log_teacher)
    ]
    return (divergences[0] + divergences[1]) / 2 * temperature**2


def mse(student: Tensor, teacher: Tensor, temperature: float = 1.0) -> Tensor:  # noqa: ARG001 - one signature for all
    """Mean over samples and classes of (z_s − z_t)²; it has no temperature."""
    return F.mse_loss(student, teacher.detach())


OBJECTIVES = {"kl": kl, "reverse_kl": reverse_kl, "js": js, "mse": mse}
"""The distillation objectives by the name that spec strings use."""
