"""Influence of single samples through a model's last layer: what a change of their loss would do to validation.

The last layer, or head, is linear and has (classes, width + 1) weights, the bias last. All is in float64.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor
from torch.nn.functional import one_hot

LARGEST = 2**17
"""Weights of a head up to which its curvature is exact; for a larger one Kronecker factors stand in."""
PRECISE = 1e-4
"""How small a gradient has to become, relative to where it began, for a head to count as trained."""
DAMPING = 0.1
"""What is added to the curvature by default, as a share of the mean of its diagonal."""

Objective = Callable[[Tensor], Tensor]
"""(n, classes) logits of all samples → their loss, a sum of functions of single samples."""


def inputs_to_logits(features: Tensor, head: Tensor) -> Tensor:
    """(n, classes) logits of (n, width) inputs."""
    return torch.addmm(head[:, -1], features, head[:, :-1].T)


def weights_from_logits(features: Tensor, slopes: Tensor) -> Tensor:
    """(classes, width + 1) gradient of a head, from the (n, classes) gradients of its logits."""
    return torch.cat([slopes.T @ features, slopes.sum(0).unsqueeze(1)], dim=1)


def second_moment(features: Tensor) -> Tensor:
    """(width + 1, width + 1) mean of hhᵀ over (n, width) features with 1 appended."""
    n, width = features.shape
    moment = features.new_ones(width + 1, width + 1)
    moment[:width, :width] = features.T @ features / n
    moment[:width, width] = moment[width, :width] = features.mean(0)
    return moment


class Curvature:
    """An objective at one head: its value, gradient and exact second derivative H with respect to the head's weights.

    Args:
        features: (n, width) float64 inputs of the head.
        head: (classes, width + 1) float64 weights.
        objective: what is differentiated.
    """

    def __init__(self, features: Tensor, head: Tensor, objective: Objective) -> None:
        self.features, self.head = features, head
        self.logits = inputs_to_logits(features, head).requires_grad_()
        value = objective(self.logits)
        (self._slopes,) = torch.autograd.grad(value, self.logits, create_graph=True, materialize_grads=True)
        self.value = float(value.detach())

    @property
    def gradient(self) -> Tensor:
        """(classes, width + 1)."""
        return weights_from_logits(self.features, self._slopes.detach())

    def product(self, step: Tensor) -> Tensor:
        """(classes, width + 1) H·step, exact: twice backwards through the objective."""
        return weights_from_logits(self.features, self._bent(inputs_to_logits(self.features, step)))

    @cached_property
    def mean_diagonal(self) -> float:
        """Mean size of an element of H's diagonal."""
        return float(self._by_class[1].abs().sum()) / self.head.numel()

    @cached_property
    def factors(self) -> Factors:
        """What approximates H and is inverted at once."""
        return Factors(*torch.linalg.eigh(second_moment(self.features)), *torch.linalg.eigh(self._by_class[0]))

    def _bent(self, direction: Tensor) -> Tensor:
        """(n, classes) second derivative with respect to the logits, times a direction."""
        (bent,) = torch.autograd.grad(self._slopes, self.logits, direction, retain_graph=True, materialize_grads=True)
        return bent

    @cached_property
    def _by_class(self) -> tuple[Tensor, Tensor]:
        """(classes, classes) second derivative with respect to the logits, added up over the samples, and (classes,)
        sums of H's diagonal."""
        squares = self.features.square().sum(1) + 1
        classes = self.head.shape[0]
        rows, sums = [], []
        for direction in torch.eye(classes, dtype=self.head.dtype, device=self.head.device):
            bent = self._bent(direction.expand_as(self.logits))
            rows.append(bent.sum(0))
            sums.append((bent @ direction) @ squares)
        return torch.stack(rows), torch.stack(sums)


@dataclass(frozen=True, eq=False)
class Factors:
    """A ⊗ S in the place of H (Martens & Grosse, arXiv 1503.05671): the mean of hhᵀ, and the second derivative with
    respect to the logits added up over the samples, by their eigenvalues and eigenvectors."""

    a: Tensor
    at: Tensor
    s: Tensor
    st: Tensor

    def solve(self, gradient: Tensor, damping: float) -> Tensor:
        """(classes, width + 1) (A ⊗ S + damping)⁻¹ gradient; eigenvalues below 0 count as 0."""
        scales = self.s.clamp(min=0).unsqueeze(1) * self.a.clamp(min=0) + damping
        return self.st @ ((self.st.T @ gradient @ self.at) / scales) @ self.at.T


def helpful_step(
    features: Tensor, head: Tensor, objective: Objective, held: Tensor, truth: Tensor, damping: float = DAMPING
) -> tuple[Tensor, Tensor]:
    """H⁻¹·G of a head that was trained to the end: how it had better move to lower the validation loss.

    A sample whose gradient changes by δ ⊗ h moves the head by −H⁻¹(δ ⊗ h), and the validation loss falls by
    ⟨step, δ ⊗ h⟩ (Koh & Liang, arXiv 1703.04730). This holds at a minimum; so the head is first trained on the
    objective and a pull back to where it is now, λ/2·‖θ − θ₀‖² (Bae et al., arXiv 2209.05364). H is the second
    derivative of both together, at the end of that training. Where the objective is convex in the logits, as
    cross-entropy, KL and MSE are, it is positive definite: no eigenvalue is below λ. Any other (reverse KL, JS, MSE of
    probabilities) bends downwards by less than λ at a minimum of both, so that H is positive there too; on the way,
    conjugate gradients end at directions of negative curvature, and no step is taken that does not lower the sum.

    Heads of more than `LARGEST` weights are left as they are, with `Factors` in the place of H.

    Args:
        features: (n, width) float64 inputs of the head, as many as the objective takes logits.
        head: (classes, width + 1) float64 weights θ₀.
        objective: what the head is trained on.
        held: (v, width) float64 inputs for validation samples.
        truth: (v,) their labels.
        damping: λ as a share of the mean of H's diagonal at θ₀.

    Returns:
        (classes, width + 1) step, and the (n, classes) logits of the head at which it was computed.
    """
    start = at = Curvature(features, head, objective)
    pull = max(damping * start.mean_diagonal, 1e-12)
    exact = head.numel() <= LARGEST
    if exact:
        at = retrained(start, objective, pull)
    residuals = torch.softmax(inputs_to_logits(held, at.head), dim=1)
    gradient = weights_from_logits(held, residuals - one_hot(truth, len(head))) / len(held)
    step = solve(at, gradient, pull, start.factors) if exact else start.factors.solve(gradient, pull)
    return step, at.logits.detach()


def solve(at: Curvature, gradient: Tensor, damping: float, factors: Factors, tolerance: float = 1e-6) -> Tensor:
    """(classes, width + 1) (H + damping)⁻¹ gradient by conjugate gradients, which the factors precondition.

    It ends where the residual is `tolerance` times the gradient, or before the first direction along which H + damping
    is not positive; such there is only away from a minimum, of a loss that is not convex.
    """
    x, residual = torch.zeros_like(gradient), gradient
    towards = factors.solve(residual, damping)
    direction, size = towards, float((residual * towards).sum())
    enough = tolerance * float(gradient.norm())
    for step in range(10 * gradient.numel()):
        if float(residual.norm()) <= enough:
            break
        bent = at.product(direction) + damping * direction
        curvature = float((direction * bent).sum())
        if curvature <= 0:
            return x if step else direction
        x = x + size / curvature * direction
        residual = residual - size / curvature * bent
        towards = factors.solve(residual, damping)
        before, size = size, float((residual * towards).sum())
        direction = towards + size / before * direction
    return x


def retrained(start: Curvature, objective: Objective, damping: float) -> Curvature:
    """At the head that minimises objective + damping/2·‖θ − θ₀‖², θ₀ being where it starts, by Newton's method."""
    now, first = start, 0.0
    for _ in range(100):
        gradient = now.gradient + damping * (now.head - start.head)
        size = float(gradient.norm())
        first = first or size
        if size <= PRECISE * first:
            break
        # Far from the minimum a rough step is as good as an exact one (Dembo et al. 1982, inexact Newton methods).
        step = solve(now, gradient, damping, start.factors, tolerance=min(0.1, size / first))
        value = now.value + damping / 2 * float((now.head - start.head).square().sum())
        falls, scale = float((gradient * step).sum()), 1.0
        while scale > 1e-10:
            tried = Curvature(start.features, now.head - scale * step, objective)
            tried_value = tried.value + damping / 2 * float((tried.head - start.head).square().sum())
            if tried_value <= value - 1e-4 * scale * falls:
                break
            scale /= 2
        else:
            break  # nothing is left to gain but rounding
        now = tried
    return now
