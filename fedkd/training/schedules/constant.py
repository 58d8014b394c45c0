from __future__ import annotations

from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.training.rates import RateSchedule


@dataclass(frozen=True, config=STRICT)
class Constant(RateSchedule):
    """The same rate at every step."""

    def share(self, time: float, horizon: float) -> float:  # noqa: ARG002 - asked of every schedule
        return 1.0
