from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.ensemble import confidence, most_confident
from fedkd.errors import UserError
from fedkd.knowledge import over_the_wire
from fedkd.losses import Temperature, kl
from fedkd.method import Method, Wire
from fedkd.node import Node
from fedkd.spec import STRICT
from fedkd.teachers import Teachers
from fedkd.train import Batch, Labels, Target

if TYPE_CHECKING:
    from fedkd.federation import Federation


@dataclass(frozen=True, config=STRICT)
class DPKD(Method):
    """Data-partitioning KD: learn from the teacher where it is better, and from one's own frozen past elsewhere.

    Roth et al. 2023, "Fantastic Gains and Where to Find Them" (KL-Dist with data partitioning), arXiv 2310.17653: no
    cross-entropy, T = 1, ties go to the student. With several teachers the best one is taken per sample, the student
    included (their parallel form).
    """

    mask: Literal["unsupervised", "supervised"] = "unsupervised"
    """where a teacher is better: higher max p, or higher p of the true label (needs a labelled transfer set)"""
    temperature: Temperature = 1.0
    """T, softens both predictions"""
    teachers: Teachers = "others"
    """who teaches: others, self, one(ID), k(NUMBER)"""
    wire: Wire = "float16"
    """type in which soft predictions travel"""

    @property
    def labels(self) -> Labels:
        return "none"

    def check(self, federation: Federation, labelled: bool) -> None:
        Method.check(self, federation, labelled)
        if self.mask == "supervised" and not labelled:
            raise UserError(
                'method dp_kd: mask = "supervised" compares predictions of the true label, but the transfer set is '
                'unlabelled; use mask="unsupervised", or transfer = "public(fraction=…, labelled=true)" for all methods'
            )

    def setup(self, node: Node) -> None:
        # What the teachers' predictions went through on the wire, the student's own go through too: otherwise
        # rounding would break the ties that belong to the student.
        if node.data is not None:
            node.state["anchor"] = over_the_wire(node.transfer_logits(), self.wire)

    def combine(self, node: Node, predictions: Tensor) -> Tensor:
        return most_confident(predictions, self._labels(node))

    def target(self, client: Node, predictions: Tensor | None) -> Target | None:
        assert predictions is not None
        teacher, anchor = self.combine(client, predictions), client.state["anchor"]
        labels = self._labels(client)
        better = confidence(teacher, labels) > confidence(anchor, labels)
        return Target(torch.where(better.unsqueeze(1), teacher, anchor))

    def loss(self, batch: Batch) -> Tensor:
        assert batch.student is not None
        assert batch.teacher is not None
        return kl(batch.student, batch.teacher, self.temperature, batch.weights)

    def _labels(self, node: Node) -> Tensor | None:
        return node.public.y if self.mask == "supervised" else None
