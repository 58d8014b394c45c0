"""The search as a method: exchanges that try cells, then rounds of the cell that was chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

from torch import nn

from fedkd.base.errors import UserError
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import Method
from fedkd.node.moment import Phase
from fedkd.node.node import Node
from fedkd.settings.federation import Federation
from fedkd.settings.training import Training
from fedkd.training.batch import Fit
from fedkd.tuning.cells import check_names
from fedkd.tuning.choosing import begin, go_on, merge_chosen
from fedkd.tuning.plan import SearchPlan
from fedkd.tuning.state import CHOSEN
from fedkd.tuning.trying import batch_report, chosen_plan, reported, start_report, try_batch
from fedkd.tuning.views import as_if_untuned, set_up


class Search(SearchPlan):
    """A method with a search before its rounds. The properties of `SearchPlan` are its settings.

    Whatever later exchanges need is in the state of the nodes.
    """

    def validate(self) -> None:
        """Raise UserError if the grid or the settings of the search are impossible."""
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
            if self.sampler == "tpe" and _reported(corner.method) != _reported(given):
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

    def setup(self, node: Node) -> None:
        set_up(self, node)

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        try_batch(self, client, knowledge)

    def report(self, client: Node) -> Knowledge | None:
        if client.moment.begins:
            return start_report(self, client)
        if client.round == 0:
            return batch_report(client)
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

    def plan(self, client: Node, knowledge: Knowledge) -> Iterator[Fit]:
        return chosen_plan(self, client, knowledge)


def _reported(method: Method) -> list[object]:
    """The parameters of a method that its report at the start depends on."""
    return [getattr(method, name, None) for name in ("teachers", "wire")]
