from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.distillation.selection import Selection
from fedkd.tensors.evaluate import right

if TYPE_CHECKING:
    from fedkd.node.node import Node
    from fedkd.training.batch import Loss, Target


@dataclass(frozen=True, config=STRICT)
class TeacherCorrect(Selection):
    """Samples that the merged teacher gets right: all of a perfect one's."""

    needs_labels: ClassVar[bool] = True

    def mask(self, client: Node, target: Target, loss: Loss) -> Tensor:  # noqa: ARG002 - asked of every selection
        labels = target.data(client).y
        assert labels is not None
        return right(target.unrevised, labels)
