"""Base class of revisions, which correct soft predictions that contradict the labels. `revisions/` holds each."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from fedkd.base.catalogue import Catalogue

if TYPE_CHECKING:
    from fedkd.training.batch import Batch


class Revision(ABC):
    """Soft predictions in, revised ones out: a frozen pydantic dataclass whose fields are its parameters."""

    needs_labels: ClassVar[bool] = True
    """whether it reads the labels of what is distilled"""

    @property
    def per_teacher(self) -> bool:
        """Whether each teacher's predictions are revised, and not the combined ones."""
        return False

    @property
    def replaces_loss(self) -> bool:
        """Whether `revised_by_mse` replaces the method's loss."""
        return False

    @abstractmethod
    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """(n, classes) logits and (n,) labels → revised logits, and (n,) bool: which rows were changed."""


def towards_labels(logits: Tensor, labels: Tensor, eta: float) -> tuple[Tensor, Tensor]:
    """Predictions whose arg max is not the label, moved towards it: p ← β·p + (1 − β)·onehot(y).

    With β = η / (p_max − p_y + 1) the label then leads the old arg max by exactly 1 − η (Lan et al., arXiv
    2404.03693). Right predictions stay as they are, to the bit.

    Args:
        logits: (n, classes); p is their softmax at temperature 1.
        labels: (n,) int64.
        eta: η in [0, 1): 0 replaces the prediction by the label.

    Returns:
        (n, classes) logits z with softmax(z) = revised p, so that a temperature may be applied afterwards, and (n,)
        bool: which are revised.
    """
    wrong = logits.argmax(dim=1).ne(labels)
    p = torch.softmax(logits.double(), dim=1)  # rounding of float32 would make the margin too small
    truth = torch.nn.functional.one_hot(labels, logits.shape[1]).to(p.dtype)
    beta = eta / (p.amax(dim=1) - p.gather(1, labels.unsqueeze(1)).squeeze(1) + 1)
    revised = beta.unsqueeze(1) * p + (1 - beta).unsqueeze(1) * truth
    # log 0 would be −∞, which becomes NaN with a temperature or in a mean over teachers.
    floor = torch.finfo(logits.dtype).tiny
    return torch.where(wrong.unsqueeze(1), revised.clamp(min=floor).log().to(logits.dtype), logits), wrong


def revised_by_mse(batch: Batch) -> Tensor:
    """Distillation that treats revised samples apart: right ones CE + 4·MSE of logits, revised ones MSE of p.

    Known from a re-implementation of arXiv 2404.03693. Labelled samples that are not distilled add their CE. Means are
    over the samples of each kind, distilled or not, as in any other loss.

    Raises:
        ValueError: the batch does not say what was revised, or its distilled samples are not among the labelled.
    """
    student, teacher, revised = batch.student, batch.teacher, batch.revised
    if student is None or teacher is None or revised is None or not batch.known:
        raise ValueError("the batch lacks distilled samples with labels, or what was revised of their soft labels")
    weights = torch.ones_like(student[:, 0]) if batch.weights is None else batch.weights
    logits = (student - teacher).square().mean(dim=1)
    probabilities = (student.softmax(dim=1) - teacher.softmax(dim=1)).square().mean(dim=1)
    distilled = torch.where(revised, probabilities, 4 * logits) * weights
    truth = torch.nn.functional.cross_entropy(batch.labelled, batch.labels, reduction="none")
    # The label of a revised sample acts only through its soft label.
    share = torch.ones_like(truth)
    share[len(truth) - len(weights) :] -= revised.to(weights.dtype) * weights
    return (share * truth).mean() + distilled.mean()


REVISIONS: Catalogue[Revision] = Catalogue("revision", "fedkd.distillation.revisions", Revision)  # type: ignore[type-abstract]
