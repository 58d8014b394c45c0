from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.distillation.selection import Keep, Ranked
from fedkd.tensors import ensemble

if TYPE_CHECKING:
    from fedkd.node.node import Node
    from fedkd.training.batch import Loss, Target


@dataclass(frozen=True, config=STRICT)
class Confidence(Ranked):
    """Samples on which the merged teacher is most confident, by its highest probability."""

    keep: Keep = 0.7
    """share of samples that are distilled"""

    def scores(self, client: Node, target: Target, loss: Loss) -> Tensor:  # noqa: ARG002 - asked of every selection
        return ensemble.confidence(target.unrevised, None)
