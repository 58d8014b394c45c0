"""What a search tries and how, and what follows from that: its cells, batches and exchanges."""

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
    """A method with a search before its rounds, without what it does: that is `Search`.

    Cells are numbered from 0, which is the method as given. They are tried in batches, all in one but for the sampler
    that learns from scores; a batch is one exchange in which a client trains every cell for all its rounds, or, side
    by side, one exchange a round.
    """

    # The next two have no default, and every search gives both. They are not abstract because a field of a dataclass
    # takes their place, and a field without a default leaves a name abstract.

    @property
    def method(self) -> str:
        """Spec string of what is tuned."""
        raise NotImplementedError

    @property
    def grid(self) -> Grid:
        """What is tried."""
        raise NotImplementedError

    @property
    def rounds(self) -> int:
        """Rounds of training a cell gets before it is evaluated."""
        return 3

    @property
    def criterion(self) -> Select:
        """What decides between cells."""
        return "val_accuracy"

    @property
    def per(self) -> Per:
        """Who chooses."""
        return "federation"

    @property
    def sampler(self) -> Sampler:
        """Which cells are tried."""
        return "grid"

    @property
    def trials(self) -> int:
        """How many, beside the untuned one; 0: as many as the grid has."""
        return 0

    @property
    def batch(self) -> int:
        """How many at once, where the sampler learns from scores."""
        return 8

    @property
    def pruner(self) -> Pruner:
        """What stops poor cells early."""
        return "none"

    @cached_property
    def untuned(self) -> Method:
        """The method as given."""
        return METHODS.build(self.method)

    @property
    def wanted(self) -> int:
        """Cells to try beside the untuned one; a finite grid may have fewer."""
        return int(min(self.trials or self.grid.size, self.grid.size))

    @property
    def batches(self) -> int:
        """Batches in which cells are tried."""
        return math.ceil(self.wanted / self.batch) if self.sampler == "tpe" else 1

    @property
    def side_by_side(self) -> bool:
        """Whether a batch takes an exchange a round: its cells teach each other what they have learnt, or some stop."""
        return self.untuned.refresh == "every round" or self.pruner != "none"

    @property
    def steps(self) -> int:
        """Exchanges a batch takes."""
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
        """The untuned cell, and one at every combination of listed values and ends of ranges."""
        return [cell(self.method, self.grid, training, point) for point in (None, *self.grid.corners())]

    def cells(self, node: Node) -> tuple[Cell, ...]:
        """The cells that a node knows of so far, by their numbers."""
        if self.sampler != "tpe":
            return _cells(self, node.training, _drawn(self, node.training, node.seed))
        return _cells(
            self, node.training, tuple(map(tuple, node.state[POINTS].tolist() if POINTS in node.state else []))
        )

    def at_start(self, node: Node) -> tuple[Cell, ...]:
        """The cells whose set-up and reports the start holds; where the rest is not known yet, the untuned one's."""
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
    """The points of a sampler that asks for no score, the same at every node."""
    untuned = cell(search.method, search.grid, training, None).point
    told = {} if untuned is None else {untuned: None}
    return tuple(propose(search.grid, search.sampler, search.wanted, seed, told, direction(search.criterion)))
