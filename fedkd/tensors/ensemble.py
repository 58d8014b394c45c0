"""Many teachers → one soft prediction: pure functions on (teachers, n, classes) logits → (n, classes) logits.

None depends on the order of the teachers beyond float rounding and exact ties, and one teacher alone is returned
as it is (up to a constant a sample, which no softmax sees).
"""

from __future__ import annotations

import torch
from torch import Tensor


def mean_logits(teachers: Tensor) -> Tensor:
    """Unweighted mean of the logits: the normalised geometric mean of the probabilities."""
    return teachers.mean(0)


def mean_probabilities(teachers: Tensor, temperature: float = 1.0) -> Tensor:
    """Mean of p^T over the teachers, as logits z with softmax(z / T) equal to that mean."""
    return (
        torch.logsumexp(torch.log_softmax(teachers / temperature, dim=-1), dim=0)
        - torch.log(teachers.new_tensor(float(len(teachers))))
    ) * temperature


def confidence(logits: Tensor, labels: Tensor | None) -> Tensor:
    """How good a prediction is: p[y] where labels (n,) are known, max p where they are None. (…, n) in [0, 1]."""
    probabilities = torch.softmax(logits, dim=-1)
    if labels is None:
        return probabilities.amax(dim=-1)
    index = labels.expand(probabilities.shape[:-1]).unsqueeze(-1)
    return probabilities.gather(-1, index).squeeze(-1)


def most_confident(teachers: Tensor, labels: Tensor | None) -> Tensor:
    """Per sample, the logits of the teacher with the highest `confidence`; ties go to the first."""
    best = confidence(teachers, labels).argmax(dim=0)
    return teachers[best, torch.arange(teachers.shape[1], device=teachers.device)]
