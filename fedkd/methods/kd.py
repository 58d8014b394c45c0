from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.distillation.revision import revised_by_mse
from fedkd.distillation.teachers import Teachers, class_teacher_in
from fedkd.knowledge.knowledge import WIRE_TYPES, Knowledge, Wire, over_the_wire
from fedkd.method import Method
from fedkd.node.node import Node
from fedkd.tensors import ensemble
from fedkd.tensors.losses import OBJECTIVES, Temperature
from fedkd.training.batch import Batch, Labels, Target


@dataclass(frozen=True, config=STRICT)
class KD(Method):
    """Knowledge distillation: (1 − w)·CE + w·T²·KL(teachers ‖ student), the teachers being the other clients.

    Hinton et al., arXiv 1503.02531; between pre-trained peers: Alballa & Canini, arXiv 2402.14922. The fixed
    T = 1 and w = 0.5 of the untuned form are our reading.

    Beside dp_kd, `kd(weight=1.0)` is its control KL-Dist and `kd(weight=0.5)` its control XE-KL. With
    `teachers="self"` a client is taught by its own past, which it knows: nothing travels.
    """

    temperature: Temperature = 1.0
    """T, softens both predictions"""
    weight: Annotated[float, Interval(ge=0, le=1)] = 0.5
    """w, share of distillation; the rest is cross-entropy on labelled samples"""
    objective: Literal["kl", "reverse_kl", "js", "mse"] = "kl"
    """what is minimised between teacher and student"""
    merge_by: Literal["logits", "probabilities"] = "logits"
    """what is averaged over the teachers: logits, or p at temperature T"""
    teachers: Teachers = "others"
    """who teaches: others, all (oneself too), self, one(ID), k(NUMBER); +autoencoder beside them, or alone"""
    refresh: Literal["once", "every round"] = "once"
    """once: teachers stay as pre-trained and travel once; every round: they teach what they have learnt since"""
    wire: Wire = "float16"
    """how soft predictions travel: float16, float32, or top(K), the K highest of each row and the mean of the rest
    (float16 where that is less)"""
    revise: str = ""
    """how soft predictions that contradict the labels are revised, such as "labels(eta=0.8)"; empty: not at all"""
    select: str = ""
    """which samples are distilled, such as "influence(keep=0.7)"; the rest learns from ground truth, or from
    nothing where it has no labels; empty: all are"""

    @model_validator(mode="after")
    def _mse_has_logits_to_compare(self) -> KD:
        comparing = f"revise={self.revise!r}" if self._left_to_revision else 'objective="mse"'
        if self._left_to_revision or self.objective == "mse":
            if self.merge_by == "probabilities":
                raise ValueError(
                    f'{comparing} compares logits, which averaged probabilities have none of; use merge_by="logits"'
                )
            if class_teacher_in(self.teachers):
                raise ValueError(
                    f"{comparing} compares logits, which an autoencoder has none of; leave it out of teachers"
                )
            if self.wire not in WIRE_TYPES:
                raise ValueError(
                    f"{comparing} compares logits, of which wire={self.wire!r} keeps a few, relative to the highest; "
                    'use wire="float16" or "float32"'
                )
        if self.objective == "mse" and self.revise and not self._left_to_revision:
            raise ValueError(
                f"{comparing} compares logits, which revise={self.revise!r} replaces by logarithms of probabilities; "
                "use revise=\"labels(form='mse')\" without objective, or another objective"
            )
        if self._left_to_revision and (self.temperature, self.weight, self.objective) != (1.0, 0.5, "kl"):
            raise ValueError(
                f"{comparing} brings a loss of its own without temperature, weight or objective; leave them out"
            )
        return self

    @property
    def has_replaceable_loss(self) -> bool:
        return True

    @property
    def labels(self) -> Labels:
        return "all" if self.weight < 1 or self.select or self._left_to_revision else "none"

    @property
    def _left_to_revision(self) -> bool:
        return self.revision is not None and self.revision.replaces_loss

    def report(self, client: Node) -> Knowledge | None:
        if self.teachers != "self":
            return Method.report(self, client)
        # Rounded as if it travelled, so that its own teacher is to a client what another one would be.
        own = client.transfer_logits()
        client.state["own"] = own if client.exchanges_models else over_the_wire(own, self.wire)
        return None

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        if self.teachers == "self":
            return dict.fromkeys(server.learners, Knowledge())
        return Method.merge(self, server, reports)

    def target(self, client: Node, predictions: Tensor | None) -> Target | None:
        return Method.target(self, client, client.state["own"].unsqueeze(0) if self.teachers == "self" else predictions)

    def combine(self, node: Node, predictions: Tensor) -> Tensor:  # noqa: ARG002
        if self.merge_by == "logits":
            return ensemble.mean_logits(predictions)
        return ensemble.mean_probabilities(predictions, self.temperature)

    def rounded(self, logits: Tensor) -> Tensor:
        # What was rounded adds up to one no more.
        return (
            logits if self.merge_by == "logits" else ensemble.mean_probabilities(logits.unsqueeze(0), self.temperature)
        )

    def loss(self, batch: Batch) -> Tensor:
        assert batch.student is not None
        assert batch.teacher is not None
        if self._left_to_revision:
            return revised_by_mse(batch)
        distilled = OBJECTIVES[self.objective](batch.student, batch.teacher, self.temperature, batch.weights)
        if self.labels == "none":
            return distilled
        return batch.ground_truth(self.weight) + self.weight * distilled
