"""Models on the wire: their tensors as knowledge, and their average."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.scopes import scoped, under
from fedkd.models import Model

if TYPE_CHECKING:
    pass

TEACHER = "teacher/"
"""Prefix of a teacher's model, followed by its client's id."""
WEIGHT = "weight/"
"""Prefix of a tensor's name where a model travels."""


def packed(model: Model) -> dict[str, Tensor]:
    """All weights and buffers of a model, under the names that they travel by."""
    return scoped(WEIGHT, model.state_dict())


def unpacked(tensors: Mapping[str, Tensor], prefix: str = "") -> dict[str, Tensor]:
    """The state dict that was packed under a further `prefix`."""
    return under(prefix + WEIGHT, tensors)


def bundled(reports: Mapping[int, Knowledge], teachers: Sequence[int]) -> Knowledge:
    """Several clients' models in one bag, each under its client's id, without what else they reported."""
    return Knowledge(
        {
            f"{TEACHER}{teacher}/{name}": value
            for teacher in teachers
            for name, value in reports[teacher].items()
            if name.startswith(WEIGHT)
        }
    )


def average(states: Sequence[Mapping[str, Tensor]], shares: Sequence[float]) -> dict[str, Tensor]:
    """Σ shareᵢ·stateᵢ / Σ share, buffers included, summed in the order given, in float64.

    Whole numbers, such as the batches that a normalisation layer has counted, are rounded.
    """
    total = sum(shares)
    averaged: dict[str, Tensor] = {}
    for name, first in states[0].items():
        mean = torch.zeros_like(first, dtype=torch.float64)
        for state, share in zip(states, shares, strict=True):
            mean += state[name].double() * (share / total)
        averaged[name] = (mean if first.is_floating_point() else mean.round()).to(first.dtype)
    return averaged


class Ensemble(nn.Module):
    """The mean of several models' probabilities, as log-probabilities (n, …, classes)."""

    def __init__(self, members: Sequence[Model]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, x: Tensor) -> Tensor:
        """(n, …, classes) logits of the mean probability."""
        logs = torch.stack([member(x).log_softmax(dim=-1) for member in self.members])
        mean: Tensor = logs.logsumexp(0) - torch.log(logs.new_tensor(float(len(logs))))
        return mean
