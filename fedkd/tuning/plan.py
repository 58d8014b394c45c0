"""The plan of a search: its settings, and the cells, batches and exchanges that follow from them."""

from __future__ import annotations

import math
from functools import cached_property, lru_cache
from typing import Literal

from fedkd.method import METHODS, Method, Refresh, Reporters
from fedkd.node.moment import Moment, Phase
from fedkd.node.node import Node
from fedkd.settings.training import Training
from fedkd.tuning.cells import Cell, cell
from fedkd.tuning.grid import Grid, Point
from fedkd.tuning.sampling import Sampler, propose
from fedkd.tuning.scores import Select, direction
from fedkd.tuning.state import POINTS

Per = Literal["federation", "client"]
Pruner = Literal["none", "halving"]


class SearchPlan(Method):
    """The settings of a method with a search before its rounds. `Search` adds what it does.

    Cells are numbered from 0, which is the method as given. There is one batch with all cells; only the sampler tpe
    needs several, because it learns from scores. A batch is one exchange in which a client trains every cell for all
    its rounds. If cells train side by side, it is one exchange for each round.
    """

    # The next two have no default, and every search defines both. They are not abstract because a subclass defines
    # them as fields of a dataclass, and a field without a default would leave the name abstract.

    @property
    def method(self) -> str:
        """Spec string of the method to tune."""
        raise NotImplementedError

    @property
    def grid(self) -> Grid:
        """The values to try."""
        raise NotImplementedError

    @property
    def rounds(self) -> int:
        """Rounds of training a cell gets before it is evaluated."""
        return 3

    @property
    def criterion(self) -> Select:
        """The score by which cells are compared."""
        return "val_accuracy"

    @property
    def per(self) -> Per:
        """Whether there is one choice for the federation, or one for each client."""
        return "federation"

    @property
    def sampler(self) -> Sampler:
        """How the cells to try are drawn from the grid."""
        return "grid"

    @property
    def trials(self) -> int:
        """Number of cells to try, besides the untuned one; 0: as many as the grid has."""
        return 0

    @property
    def batch(self) -> int:
        """Number of cells in a batch of the sampler tpe."""
        return 8

    @property
    def pruner(self) -> Pruner:
        """The rule by which poor cells are stopped early."""
        return "none"

    @cached_property
    def untuned(self) -> Method:
        """The method as given."""
        return METHODS.build(self.method)

    @property
    def wanted(self) -> int:
        """Number of cells to try besides the untuned one, at most as many as the grid has."""
        return int(min(self.trials or self.grid.size, self.grid.size))

    @property
    def batches(self) -> int:
        """Number of batches."""
        return math.ceil(self.wanted / self.batch) if self.sampler == "tpe" else 1

    @property
    def side_by_side(self) -> bool:
        """Whether a batch takes one exchange for each round, because clients exchange knowledge or poor cells stop."""
        return self.untuned.refresh == "every round" or self.pruner != "none"

    @property
    def steps(self) -> int:
        """Number of exchanges in a batch."""
        return self.rounds if self.side_by_side else 1

    @property
    def preparations(self) -> int:
        return self.batches * self.steps

    @property
    def preparation(self) -> str:
        return "tuning"

    @property
    def refresh(self) -> Refresh:
        return self.untuned.refresh

    def reports(self, moment: Moment) -> Reporters:
        if moment.phase is Phase.PREPARE:
            return "everyone"
        asked = {corner.method.reports(moment) for corner in self.corners(Training())}
        return "everyone" if "everyone" in asked else self.untuned.reports(moment)

    @property
    def pools(self) -> bool:
        return self.untuned.pools

    @property
    def has_global_model(self) -> bool:
        return self.untuned.has_global_model

    @property
    def uses_absent(self) -> bool:
        return self.untuned.uses_absent

    @property
    def needs_everyone(self) -> str:
        return "every client tries the cells of the search"

    @property
    def begins_with_average(self) -> bool:
        return self.untuned.begins_with_average

    def corners(self, training: Training) -> list[Cell]:
        """The untuned cell, and a cell for every combination of listed values and ends of ranges."""
        return [cell(self.method, self.grid, training, point) for point in (None, *self.grid.corners())]

    def cells(self, node: Node) -> tuple[Cell, ...]:
        """The cells that a node knows so far, in the order of their numbers."""
        if self.sampler != "tpe":
            return _cells(self, node.training, _drawn(self, node.training, node.seed))
        return _cells(
            self, node.training, tuple(map(tuple, node.state[POINTS].tolist() if POINTS in node.state else []))
        )

    def at_start(self, node: Node) -> tuple[Cell, ...]:
        """The cells that are set up and report at the start; only the untuned one if the others are not known yet."""
        return self.cells(node)[:1] if self.sampler == "tpe" else self.cells(node)

    def when(self, moment: Moment) -> tuple[int, int]:
        """(batch from 0, step from 1) of a preparation."""
        batch, step = divmod(moment.step - 1, self.steps)
        return batch, step + 1


@lru_cache(maxsize=64)
def _cells(search: SearchPlan, training: Training, points: tuple[Point, ...]) -> tuple[Cell, ...]:
    """The untuned cell and those at the points, each once."""
    known: dict[str, Cell] = {}
    for point in (None, *points):
        made = cell(search.method, search.grid, training, point)
        known.setdefault(made.label, made)
    return tuple(known.values())


@lru_cache(maxsize=64)
def _drawn(search: SearchPlan, training: Training, seed: int) -> tuple[Point, ...]:
    """The points of a sampler that needs no scores. They are the same at every node."""
    untuned = cell(search.method, search.grid, training, None).point
    tried = {} if untuned is None else {untuned: None}
    return tuple(propose(search.grid, search.sampler, search.wanted, seed, tried, direction(search.criterion)))
