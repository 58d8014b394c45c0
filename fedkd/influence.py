"""Influence of single samples through a model's last layer: what a change of their loss would do to validation."""

from __future__ import annotations

import torch
from torch import Tensor


def validation_gradient(features: Tensor, residuals: Tensor) -> Tensor:
    """(classes, width + 1) mean gradient of a linear head, its bias last.

    Args:
        features: (n, width) inputs of the head.
        residuals: (n, classes) gradients of each sample's loss with respect to its logits.
    """
    weight = residuals.T.double() @ features.double()
    return torch.cat([weight, residuals.double().sum(0).unsqueeze(1)], dim=1) / len(features)


def last_layer_influence(
    features: Tensor, changes: Tensor, curvature: Tensor, gradient: Tensor, damping: float
) -> Tensor:
    """How much the validation loss would fall if the gradients of single samples changed: ⟨G, H⁻¹ (δ ⊗ h)⟩ for each.

    H = A ⊗ S + damping·I is the damped Kronecker-factored Gauss-Newton matrix of the head (Martens & Grosse, arXiv
    1503.05671), A being the mean of hhᵀ over the samples. Its eigenvectors are those of A and S, so that it is inverted
    exactly. Positive scores are helpful changes (Koh & Liang, arXiv 1703.04730).

    Args:
        features: (n, width) inputs h of the head; the constant 1 of its bias is appended here.
        changes: (n, classes) changes δ of the gradients with respect to the logits.
        curvature: (classes, classes) mean second derivative S of the training loss with respect to the logits.
        gradient: (classes, width + 1) mean gradient G of the validation loss, as `validation_gradient` gives it.
        damping: > 0, added to every eigenvalue.

    Returns:
        (n,) float64 scores.
    """
    a, at = torch.linalg.eigh(second_moment(features))
    s, st = torch.linalg.eigh((curvature + curvature.T).double() / 2)
    # A loss that is not convex in the logits has directions of no use to a Gauss-Newton step.
    scales = s.clamp(min=0).unsqueeze(1) * a.clamp(min=0) + damping
    step = st @ ((st.T @ gradient.double() @ at) / scales) @ at.T
    moved = features @ step[:, :-1].T.to(features.dtype)
    scores: Tensor = ((moved.double() + step[:, -1]) * changes.double()).sum(dim=1)
    return scores


def second_moment(features: Tensor) -> Tensor:
    """(width + 1, width + 1) float64 mean of hhᵀ over (n, width) features with 1 appended."""
    n, width = features.shape
    moment = torch.ones(width + 1, width + 1, dtype=torch.float64, device=features.device)
    moment[:width, :width] = (features.T @ features / n).double()
    moment[:width, width] = moment[width, :width] = features.mean(0, dtype=torch.float64)
    return moment
