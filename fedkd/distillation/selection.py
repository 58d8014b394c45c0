"""Base classes of selections, which choose the samples that are distilled. The others are learnt from their labels.

The folder `selections/` holds a file for each.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Annotated, ClassVar

import torch
from annotated_types import Gt, Interval
from torch import Tensor

from fedkd.base.catalogue import Catalogue
from fedkd.tensors.ranking import highest

if TYPE_CHECKING:
    from fedkd.node.node import Node
    from fedkd.training.batch import Loss, Target

Keep = Annotated[float, Interval(gt=0, le=1)]
"""ρ, the share of samples that are distilled."""
Every = Annotated[int, Gt(0)]
"""Rounds between two selections."""


class Selection(ABC):
    """Which samples are distilled: a frozen pydantic dataclass whose fields are its parameters."""

    needs_labels: ClassVar[bool] = False
    """whether it reads the labels of what is distilled"""
    needs_validation: ClassVar[bool] = False
    """whether it reads the client's own validation samples"""

    @abstractmethod
    def mask(self, client: Node, target: Target, loss: Loss) -> Tensor:
        """(n,) bool: which samples of a client's target are distilled in this round. `loss` is the method's."""


class Ranked(Selection):
    """The share `keep` of samples with the highest scores, selected again in every `every`th round."""

    @property
    @abstractmethod
    def keep(self) -> float:
        """Share of samples that are distilled."""

    @property
    def every(self) -> int:
        """Rounds between two selections."""
        return 1

    @abstractmethod
    def scores(self, client: Node, target: Target, loss: Loss) -> Tensor:
        """(n,) scores; the samples with the highest are selected."""

    def mask(self, client: Node, target: Target, loss: Loss) -> Tensor:
        selected = client.state.get("selected")
        if selected is None or (client.round - 1) % self.every == 0:
            scores = self.scores(client, target, loss)
            selected = torch.zeros(len(scores), dtype=torch.bool, device=scores.device)
            selected[highest(scores, self.keep)] = True
            if self.every > 1:
                client.state["selected"] = selected
        return selected


SELECTIONS: Catalogue[Selection] = Catalogue("selection", "fedkd.distillation.selections", Selection)  # type: ignore[type-abstract]
