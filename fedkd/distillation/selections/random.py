from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.distillation.selection import Every, Keep, Ranked

if TYPE_CHECKING:
    from fedkd.node.node import Node
    from fedkd.training.batch import Loss, Target


@dataclass(frozen=True, config=STRICT)
class Random(Ranked):
    """Samples drawn at random: the control of every other selection."""

    keep: Keep = 0.7
    """share of samples that are distilled"""
    every: Every = 1
    """rounds between two selections"""

    def scores(self, client: Node, target: Target, loss: Loss) -> Tensor:  # noqa: ARG002 - asked of every selection
        rng = client.rng("select", client.round)
        return torch.rand(len(target.logits), generator=rng).to(target.logits.device)
