"""The search as a method: exchanges that try cells, then rounds of the cell that was chosen."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Literal

from torch import nn

from fedkd.base.errors import UserError
from fedkd.knowledge.knowledge import Knowledge, Wire
from fedkd.method import METHODS, Method, Refresh
from fedkd.node.moment import Moment, Phase
from fedkd.node.node import Node
from fedkd.settings.training import Training
from fedkd.tuning.cells import Cell, cell, check_names
from fedkd.tuning.choosing import begin, go_on, merge_chosen
from fedkd.tuning.grid import Grid, Point
from fedkd.tuning.sampling import Sampler, propose
from fedkd.tuning.scores import Select, direction
from fedkd.tuning.trying import found, learn_chosen, reported, start_report, try_batch
from fedkd.tuning.views import CHOSEN, POINTS, as_if_untuned, set_up

if TYPE_CHECKING:
    from fedkd.settings.federation import Federation

Per = Literal["federation", "client"]
Pruner = Literal["none", "halving"]


class Search(Method):
    """A method with a search before its rounds. What is searched, and how, is said by the properties that come first.

    Cells are numbered from 0, which is the method as given. They are tried in batches, all in one but for the sampler
    that learns from scores; a batch is one exchange in which a client trains every cell for all its rounds, or, side
    by side, one exchange a round. Everything that outlives an exchange lies in the nodes' state.
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
        """Rounds of training a cell gets before it is judged."""
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
        # A method in which nothing travels still has scores that do.
        return "every round" if self.untuned.refresh == "every round" else "once"

    @property
    def wire(self) -> Wire:
        return self.untuned.wire

    @cached_property
    def teachers(self) -> str:
        alone = any(corner.method.teachers == "self" for corner in self.corners(Training()))
        return "self" if alone else self.untuned.teachers

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

    def validate(self) -> None:
        """Raise UserError where the grid, or how it is searched, cannot be."""
        check_names(self.method, self.grid)
        if self.untuned.preparations:
            raise UserError(
                f"method = {self.method!r} has preparations of its own and cannot be tuned; tune what it uses"
            )
        if self.grid.ranges and self.sampler == "grid":
            raise UserError(
                f'grid: {self.grid.ranges[0]} is a range, which sampler = "grid" cannot exhaust; '
                'list its values, or use sampler = "random", "qmc" or "tpe" with trials'
            )
        if math.isinf(self.grid.size) and not self.trials:
            raise UserError(f"trials: {self.grid.ranges[0]} is a range, so say how many cells to try")
        if self.trials and self.sampler == "grid":
            raise UserError('trials: sampler = "grid" tries the whole grid; use another sampler, or leave trials at 0')
        for corner in self.corners(Training()):
            given = self.untuned
            if corner.method.preparations:
                raise UserError(
                    f"grid, at {corner.label}: it has preparations of its own and cannot be tuned; tune what it uses"
                )
            if corner.method.refresh != given.refresh:
                raise UserError(
                    f"grid, at {corner.label}: refresh decides how cells are tried, and differs from that of "
                    f"{self.method!r}; tune each as a method of its own"
                )
            if self.sampler == "tpe" and (corner.method.teachers, corner.method.wire) != (given.teachers, given.wire):
                raise UserError(
                    f"grid, at {corner.label}: teachers and wire decide what is sent at the start, before "
                    'sampler = "tpe" proposes anything; use another sampler'
                )

    def check(self, federation: Federation, labelled: bool) -> None:
        if federation.val != "local":
            raise UserError(
                f"val = {federation.val!r}: clients score the cells of a search on validation samples of their own; "
                'use val = "local"'
            )
        if self.per == "client" and self.has_global_model:
            raise UserError(f'per = "client": {self.method} has one model for all; use per = "federation"')
        for corner in self.corners(federation.train):
            corner.method.check(federation, labelled)

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

    def setup(self, node: Node) -> None:
        set_up(self, node)

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        try_batch(self, client, knowledge)

    def report(self, client: Node) -> Knowledge | None:
        if client.moment.begins:
            return start_report(self, client)
        if client.round == 0:
            return found(client)
        chosen = self.cells(client)[int(client.state[CHOSEN])]
        with as_if_untuned(client, chosen.training):
            return reported(client, chosen)

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        if server.moment.begins:
            return begin(self, server, reports)
        if server.round == 0:
            return go_on(self, server, reports)
        return merge_chosen(self, server, reports)

    def global_model(self, server: Node) -> nn.Module | None:
        if server.moment.phase is Phase.PREPARE:
            return None
        chosen = int(server.state[CHOSEN][0]) if CHOSEN in server.state else 0
        return self.cells(server)[chosen].method.global_model(server)

    def learn(self, client: Node, knowledge: Knowledge) -> None:
        learn_chosen(self, client, knowledge)


@lru_cache(maxsize=64)
def _cells(search: Search, training: Training, points: tuple[Point, ...]) -> tuple[Cell, ...]:
    """The untuned cell and those at the points, each once."""
    known: dict[str, Cell] = {}
    for point in (None, *points):
        made = cell(search.method, search.grid, training, point)
        known.setdefault(made.label, made)
    return tuple(known.values())


@lru_cache(maxsize=64)
def _drawn(search: Search, training: Training, seed: int) -> tuple[Point, ...]:
    """The points of a sampler that asks for no score, the same at every node."""
    untuned = cell(search.method, search.grid, training, None).point
    told = {} if untuned is None else {untuned: None}
    return tuple(propose(search.grid, search.sampler, search.wanted, seed, told, direction(search.criterion)))
