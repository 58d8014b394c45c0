"""fedkd for Flower users: the rounds as a Strategy that any ServerApp can start."""

from __future__ import annotations

import time
from collections.abc import Iterable
from logging import INFO

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.common.logger import log
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Strategy

from fedkd.flower import wire
from fedkd.flower.rounds import OnRound, Rounds
from fedkd.node.holdings import Loader, Row
from fedkd.settings.federation import Federation


class Distillation(Strategy):
    """Knowledge distillation as a Flower strategy.

    Flower counts rounds from 1 and has no start, so its round n is our exchange n − 1. Start it with
    `strategy.start(grid, ArrayRecord(), num_rounds=strategy.exchanges)`.
    """

    def __init__(self, federation: Federation, load: Loader, on_round: OnRound | None = None) -> None:
        self.rounds = Rounds(federation, load)
        self._on_round = on_round

    @property
    def exchanges(self) -> int:
        """Flower rounds that make up the federation: the start, the method's preparations, the rounds."""
        return self.rounds.last + 1

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        del arrays, config  # knowledge differs from client to client
        return self.rounds.configure(server_round - 1, wait_for_nodes(grid, self.rounds.federation.clients))

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        rows = self.rounds.aggregate(server_round - 1, replies)
        if done := self.rounds.complete(server_round - 1, rows):
            if self._on_round is not None:
                self._on_round(*done)
            return None, _means(done[1])
        return None, None

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        del server_round, arrays, config, grid  # clients evaluate in the same exchange in which they learn
        return []

    def aggregate_evaluate(self, server_round: int, replies: Iterable[Message]) -> MetricRecord | None:
        del server_round, replies
        return None

    def summary(self) -> None:
        federation, last = self.rounds.federation, self.rounds.schedule.last_round
        log(INFO, "\t└──> %s, %d clients, %d rounds", federation.method, federation.clients, last)


def wait_for_nodes(grid: Grid, count: int, timeout: float = 120.0) -> list[int]:
    """The `count` lowest node ids, ascending, once that many are connected.

    Raises:
        TimeoutError: they are not, within `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while len(nodes := sorted(grid.get_node_ids())) < count:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(nodes)} of {count} clients connected within {timeout:.0f} s")
        time.sleep(0.05)
    return nodes[:count]


def tidy_up(grid: Grid, nodes: list[int], timeout: float = 60.0) -> None:
    """Ask clients to remove what a federation left on their disks."""
    messages = [Message(wire.forget_content([client]), node, wire.FORGET) for client, node in enumerate(nodes)]
    list(grid.send_and_receive(messages, timeout=timeout))


def _means(rows: list[Row]) -> MetricRecord:
    values: dict[str, list[float]] = {}
    for client, split, metric, value in rows:
        if client >= 0 and metric in ("accuracy", "loss"):
            values.setdefault(f"{split}_{metric}", []).append(value)
    return MetricRecord({name: sum(each) / len(each) for name, each in values.items()})
