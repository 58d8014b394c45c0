from __future__ import annotations

import math
from typing import Annotated

from annotated_types import Interval
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.training.rates import RateSchedule


@dataclass(frozen=True, config=STRICT)
class Cosine(RateSchedule):
    """Half a cosine, from the whole rate at the start down to the floor when the last round ends.

    Loshchilov & Hutter, arXiv 1608.03983, without restarts; as CosineAnnealingLR of torch, step by step.
    """

    floor: Annotated[float, Interval(ge=0, le=1)] = 0.0
    """share of the rate that is left at the end"""

    def share(self, time: float, horizon: float) -> float:
        passed = time / horizon if horizon else 1.0
        return self.floor + (1 - self.floor) * (1 + math.cos(math.pi * passed)) / 2
