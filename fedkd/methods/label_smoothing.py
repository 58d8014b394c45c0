from __future__ import annotations

from typing import Annotated

import torch
from annotated_types import Interval
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.method import Method
from fedkd.tensors.losses import Temperature, cross_entropy, kl
from fedkd.training.batch import Batch


@dataclass(frozen=True, config=STRICT)
class LabelSmoothing(Method):
    """Uniform soft labels instead of a teacher's: (1 − α)·CE + α·T²·KL(uniform ‖ student), and nothing travels.

    Szegedy et al. 2016, arXiv 1512.00567, at T = 1 and up to the constant α·log C. The temperature is ours, so that it
    can be compared with other soft labels at their α and T. It acts on labelled samples only.
    """

    alpha: Annotated[float, Interval(ge=0, le=1)] = 0.1
    """α, share of the uniform soft label; the rest is the true one"""
    temperature: Temperature = 1.0
    """T, softens the student's prediction where it is compared with the uniform one"""

    def loss(self, batch: Batch) -> Tensor:
        uniform = torch.zeros_like(batch.labelled)
        smooth = kl(batch.labelled, uniform, self.temperature)
        return (1 - self.alpha) * cross_entropy(batch.labelled, batch.labels) + self.alpha * smooth
