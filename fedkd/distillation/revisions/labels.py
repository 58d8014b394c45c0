from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Interval
from pydantic import model_validator
from pydantic.dataclasses import dataclass
from torch import Tensor

from fedkd.base.catalogue import STRICT
from fedkd.distillation.revision import Revision, towards_labels


@dataclass(frozen=True, config=STRICT)
class Labels(Revision):
    """Wrong soft predictions are mixed with the label until it leads the old favourite by 1 − η.

    Lan et al., arXiv 2404.03693. It is ours to revise at T = 1 and to apply the temperature afterwards. At a high
    temperature, a revised prediction would need a far larger gap between logits than any teacher has.
    """

    eta: Annotated[float, Interval(ge=0, lt=1)] = 0.8
    """η, how much of a wrong prediction may stay: the label leads by 1 − η"""
    per_teacher: bool = False
    """revise each teacher before they are merged, instead of what they say together"""
    form: Literal["kl", "mse"] = "kl"
    """kl: the method's own objective; mse (kd alone): right samples CE + 4·MSE of logits, revised ones MSE of p"""

    @model_validator(mode="after")
    def _mse_knows_what_was_revised(self) -> Labels:
        if self.form == "mse" and self.per_teacher:
            raise ValueError('form="mse" treats revised samples apart, which several teachers would not agree on')
        return self

    @property
    def replaces_loss(self) -> bool:
        return self.form == "mse"

    def __call__(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        return towards_labels(logits, labels, self.eta)
