from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Gt
from pydantic import model_validator
from pydantic.dataclasses import dataclass

from fedkd.base.catalogue import STRICT
from fedkd.tuning.grid import Grid
from fedkd.tuning.plan import Per, Pruner
from fedkd.tuning.sampling import Sampler
from fedkd.tuning.scores import Select
from fedkd.tuning.search import Search


@dataclass(frozen=True, config=STRICT)
class Tuned(Search):
    """Any method at the settings that validate best, the method as given always being among those tried.

    The search of Alballa & Canini, arXiv 2402.14922, for every method; its forms are ours. Every cell starts from the
    same pre-trained state and sees the same batches as rounds 1, 2, … will. If teachers are frozen, a client tries all
    cells in one exchange and uploads only scores. If teachers teach what they have learnt since, the cells of all
    clients train side by side, one round in each exchange. After the search the client's model is as before. Scores use
    only validation samples.

    Equal budgets: give every method of a study a grid with the same number of cells, and equal rounds; then
    `tuning_steps` are equal. `lr`, `momentum` and `weight_decay` of the `[train]` table may be in any grid. So methods
    with few parameters, such as `local`, `dml` and `dp_kd`, can have the same budget:
    `tuned(method="local", grid={"lr": [0.01, 0.02, 0.05, 0.1]})`.
    """

    method: str = "kd"
    """spec string of the method to tune"""
    grid: Grid = Grid.read({"temperature": [1.0, 2.0], "weight": [0.1, 0.5]})
    """values by parameter, a list or a range {"low": 1.0, "high": 20.0, "log": true}; lr, momentum and weight_decay may
    be among them"""
    rounds: Annotated[int, Gt(0)] = 3
    """rounds of training a cell gets before it is evaluated"""
    select: Select = "val_accuracy"
    """what decides: validation accuracy, then loss; or loss, then accuracy; then the order of the cells"""
    per: Per = "federation"
    """one choice for all, by the mean over the clients that learn, or each client's own"""
    sampler: Sampler = "grid"
    """the whole grid, or points of it drawn by Optuna: at random, spread evenly, or where scores promise most (tpe)"""
    trials: Annotated[int, Ge(0)] = 0
    """cells to draw beside the untuned one; 0: as many as the grid has"""
    batch: Annotated[int, Gt(0)] = 8
    """cells that tpe proposes at once, before it learns how they did"""
    pruner: Pruner = "none"
    """halving lets the better half of the cells go on after rounds 1, 2, 4, …; it takes an exchange a round"""

    @property
    def criterion(self) -> Select:
        return self.select

    @model_validator(mode="after")
    def _can_be_searched(self) -> Tuned:
        self.validate()
        return self
