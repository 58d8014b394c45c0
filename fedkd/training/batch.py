"""What a loss sees at one step, and what a student shall predict."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from fedkd.node.node import Node
from fedkd.tensors.losses import cross_entropy

Labels = Literal["all", "private", "none"]
"""Which labelled samples a loss reads: private and labelled transfer, private alone, or none."""


@dataclass(frozen=True, eq=False)
class Target:
    """What a student shall predict."""

    logits: Tensor
    """(n, classes): soft labels are softmax(logits / T)"""
    weights: Tensor | None = None
    """(n,) how much each sample counts in the mean over a batch, 0 to 1, or None for all in full"""
    on: Literal["transfer", "private"] = "transfer"
    """which samples these are the soft labels of"""
    revised: Tensor | None = None
    """(n,) bool: which soft labels are not the teacher's any more; None: none"""
    said: Tensor | None = None
    """(n, classes) what they were before any revision; None: the same"""

    @property
    def unrevised(self) -> Tensor:
        """(n, classes) soft labels as they were before any revision."""
        return self.logits if self.said is None else self.said


@dataclass(frozen=True, eq=False)
class Batch:
    """What a loss sees at one step."""

    node: Node
    labelled: Tensor
    """(b, classes) student logits of samples whose labels are known; with a labelled transfer set its share is last"""
    labels: Tensor
    """(b,) their labels"""
    student: Tensor | None
    """(m, classes) student logits of distilled samples, with gradients; None where nothing is distilled"""
    teacher: Tensor | None
    """(m, classes) their target logits"""
    weights: Tensor | None = None
    """(m,) their weights"""
    revised: Tensor | None = None
    """(m,) bool: which targets were revised"""
    known: bool = False
    """whether the distilled samples are among the labelled ones: then they are the last m of them"""

    def ground_truth(self, distilled: float) -> Tensor:
        """(1 − distilled)·CE, where that share goes to distillation; of samples that are not distilled after all,
        because their weight is 0, the whole CE."""
        if self.weights is None or not self.known:
            return (1 - distilled) * cross_entropy(self.labelled, self.labels)
        each = F.cross_entropy(self.labelled, self.labels, reduction="none")
        share = torch.full_like(each, 1 - distilled)
        share[len(each) - len(self.weights) :] += distilled * (1 - self.weights)
        return (share * each).mean()


Loss = Callable[[Batch], Tensor]
