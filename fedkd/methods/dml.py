from __future__ import annotations

from typing import Literal

from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd import ensemble
from fedkd.losses import cross_entropy, kl
from fedkd.method import Method, Refresh, Wire
from fedkd.node import Node
from fedkd.spec import STRICT
from fedkd.train import Batch


@dataclass(frozen=True, config=STRICT)
class DML(Method):
    """Deep mutual learning: all clients learn from each other at once, CE + mean of KL(peer ‖ own) over the peers.

    Zhang et al. 2018, arXiv 1706.00384. The gradient of the mean of KL(p_j ‖ p_i) over the peers is that of KL to the
    mean of their probabilities, so one matrix travels to each client. It follows that dml takes exactly the
    steps of `kd(temperature=1.0, weight=0.5, merge_by="probabilities", refresh="every round")` at twice its
    learning rate.
    """

    reduce: Literal["mean", "sum"] = "mean"
    """over the peers: mean, or sum as in the authors' code, which weighs peers more the more there are"""
    wire: Wire = "float16"
    """type in which soft predictions travel"""

    @property
    def refresh(self) -> Refresh:
        return "every round"

    def combine(self, node: Node, predictions: Tensor) -> Tensor:  # noqa: ARG002
        return ensemble.mean_probabilities(predictions)

    def loss(self, batch: Batch) -> Tensor:
        assert batch.student is not None
        assert batch.teacher is not None
        peers = 1 if self.reduce == "mean" else len(batch.node.peers)
        return cross_entropy(batch.labelled, batch.labels) + peers * kl(
            batch.student, batch.teacher, weights=batch.weights
        )
