from __future__ import annotations

from functools import cached_property
from typing import Annotated

from annotated_types import Gt, Interval, MinLen
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.base.spec import Spec
from fedkd.distillation.distilling import SoftPredictions
from fedkd.tensors.losses import Temperature
from fedkd.tuning.grid import Grid
from fedkd.tuning.search import Search


@dataclass(frozen=True, config=STRICT)
class TunedKD(SoftPredictions, Search):
    """kd at the temperature and weight that validate best, searched on a grid that holds the untuned cell too.

    Alballa & Canini, arXiv 2402.14922; the grid is ours. Every cell starts from the same pre-trained state and trains
    for `rounds` rounds. The cell with the highest mean validation accuracy over the clients is chosen for the
    federation (then the lower loss, then the first). Teachers are frozen, so a client tries all cells in one exchange
    and uploads only scores. It is `tuned` for kd.
    """

    temperatures: Annotated[tuple[Temperature, ...], MinLen(1)] = (1.0, 2.0, 4.0, 8.0, 10.0, 20.0)
    """values of T to try"""
    weights: Annotated[tuple[Annotated[float, Interval(ge=0, le=1)], ...], MinLen(1)] = (
        0.1,
        0.3,
        0.5,
        0.7,
        0.9,
        1.0,
    )
    """values of w to try"""
    rounds: Annotated[int, Gt(0)] = 3
    """rounds of training a cell gets before it is evaluated"""

    @cached_property
    def method(self) -> str:
        modifiers = {"revise": self.revise, "select": self.select}
        return str(Spec("kd", {"wire": self.wire} | {key: spec for key, spec in modifiers.items() if spec}))

    @cached_property
    def grid(self) -> Grid:
        return Grid.read({"temperature": self.temperatures, "weight": self.weights})
