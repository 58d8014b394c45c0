from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.distillation.distilling import Distilling
from fedkd.distillation.revision import revised_by_mse
from fedkd.distillation.sources import OwnPast, Source
from fedkd.distillation.teachers import class_teacher_in
from fedkd.knowledge.knowledge import WIRE_TYPES
from fedkd.node.node import Node
from fedkd.tensors import ensemble
from fedkd.tensors.losses import OBJECTIVES, Temperature
from fedkd.training.batch import Batch, Labels


@dataclass(frozen=True, config=STRICT)
class KD(Distilling):
    """Knowledge distillation: (1 − w)·CE + w·T²·KL(teachers ‖ student), the teachers being the other clients.

    Hinton et al., arXiv 1503.02531; between pre-trained peers: Alballa & Canini, arXiv 2402.14922. The fixed
    T = 1 and w = 0.5 of the untuned form are our reading.

    `kd(weight=1.0)` is the control KL-Dist of dp_kd, and `kd(weight=0.5)` its control XE-KL. With `teachers="self"` a
    client learns from its own earlier predictions, and nothing is sent.
    """

    temperature: Temperature = 1.0
    """T, softens both predictions"""
    weight: Annotated[float, Interval(ge=0, le=1)] = 0.5
    """w, share of distillation; the rest is cross-entropy on labelled samples"""
    objective: Literal["kl", "reverse_kl", "js", "mse"] = "kl"
    """what is minimised between teacher and student"""
    merge_by: Literal["logits", "probabilities"] = "logits"
    """what is averaged over the teachers: logits, or p at temperature T"""
    refresh: Literal["once", "every round"] = "once"
    """once: teachers stay as pre-trained and travel once; every round: they teach what they have learnt since"""

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

    @cached_property
    def source(self) -> Source | None:
        return OwnPast(self.wire) if self.teachers == "self" else super().source

    def combine(self, node: Node, predictions: Tensor) -> Tensor:  # noqa: ARG002
        if self.merge_by == "logits":
            return ensemble.mean_logits(predictions)
        return ensemble.mean_probabilities(predictions, self.temperature)

    def rounded(self, logits: Tensor) -> Tensor:
        # Rounded probabilities do not sum to 1 any more.
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
