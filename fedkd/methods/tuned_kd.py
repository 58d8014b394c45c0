from __future__ import annotations

import itertools
from collections.abc import Mapping
from functools import cached_property
from typing import Annotated

import torch
from annotated_types import Gt, Interval, MinLen
from pydantic.dataclasses import dataclass

from fedkd.knowledge import Knowledge
from fedkd.losses import Temperature
from fedkd.method import Method, Wire
from fedkd.methods.kd import KD
from fedkd.node import Node
from fedkd.spec import STRICT
from fedkd.tuning import best_cell, try_cells


@dataclass(frozen=True, config=STRICT)
class TunedKD(Method):
    """kd at the temperature and weight that validate best, searched on a grid that holds the untuned cell too.

    Alballa & Canini, arXiv 2402.14922; the grid is ours. Every cell starts from the same pre-trained state and trains
    for `rounds` rounds; the clients' mean validation accuracy chooses one cell for the federation (then the lower
    loss, then the first). Teachers are frozen, so a client tries all cells within one message, and only scores go up.
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
    """rounds of training a cell gets before it is judged"""
    wire: Wire = "float16"
    """type in which soft predictions travel"""

    @property
    def preparations(self) -> int:
        return 1

    @cached_property
    def cells(self) -> dict[str, KD]:
        """Every cell of the grid by its label, the untuned one first."""
        untuned = KD(wire=self.wire)
        grid = [
            KD(temperature=temperature, weight=weight, wire=self.wire)
            for temperature, weight in itertools.product(self.temperatures, self.weights)
        ]
        return {f"temperature={kd.temperature},weight={kd.weight}": kd for kd in (untuned, *grid)}

    def prepare(self, client: Node, knowledge: Knowledge) -> None:
        client.state["scores"] = try_cells(client, knowledge, self.cells, self.rounds)

    def report(self, client: Node) -> Knowledge | None:
        if client.exchange == 0:
            return Method.report(self, client)
        return Knowledge(scores=client.state.pop("scores"))

    def merge(self, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        if server.exchange == 0:
            return Method.merge(self, server, reports)
        chosen = best_cell(torch.stack([reports[client]["scores"] for client in sorted(reports)]))
        server.record(f"tuning_chosen/{list(self.cells)[chosen]}", 1.0)
        return {client: Knowledge(chosen=torch.tensor(chosen)) for client in server.learners}

    def learn(self, client: Node, knowledge: Knowledge) -> None:
        list(self.cells.values())[int(knowledge["chosen"])].learn(client, knowledge)
