from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Gt
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.training.rates import RateSchedule


@dataclass(frozen=True, config=STRICT)
class Step(RateSchedule):
    """The rate is multiplied by a factor every so many rounds, as StepLR of torch does."""

    every: Annotated[int, Gt(0)] = 10
    """rounds at the same rate; in pre-training, epochs"""
    factor: Annotated[float, Gt(0)] = 0.1
    """by what the rate is multiplied then"""

    def share(self, time: float, horizon: float) -> float:  # noqa: ARG002 - asked of every schedule
        return float(self.factor ** math.floor(time / self.every))
