"""fedkd as a Flower strategy, started by Flower's own loop in a ServerApp of one's own."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from flwr.app import ArrayRecord, Context, MetricRecord, RecordDict
from flwr.serverapp import Grid, ServerApp
from flwr.serverapp.strategy import Result, Strategy

from fedkd.data import cache_root
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import FederationError, Rounds
from fedkd.flower.strategy import Distillation, tidy_up, wait_for_nodes
from fedkd.node.holdings import Holdings, Row
from fedkd.settings.federation import Federation
from simulations.engine import InlineGrid
from tests import small
from tests.small import own_cache

__all__ = ["own_cache"]

CLIENTS = 3
TUNED = "tuned_kd(temperatures=[1.0, 2.0], weights=[0.5], rounds=1)"

Told = list[tuple[int, list[Row]]]


@pytest.fixture(autouse=True)
def silence() -> Iterator[None]:
    """Flower's loop logs every round."""
    logger = logging.getLogger("flwr")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    yield
    logger.setLevel(level)


def federation(method: str, **settings: object) -> Federation:
    """Three clients, three rounds."""
    return small.small(method, **({"clients": CLIENTS, "rounds": 3} | settings))


def grid_of(clients: int = CLIENTS) -> InlineGrid:
    """A grid whose nodes hold random data."""
    return InlineGrid(client_app(small.load), clients)


def served(grid: Grid, main: Callable[[Grid], object]) -> None:
    """Run something as the main function of a ServerApp."""
    app = ServerApp()

    @app.main()
    def _(grid: Grid, context: Context) -> None:
        del context
        main(grid)

    app(grid, Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={}))


def by_strategy(of: Federation, grid: Grid) -> tuple[Told, Result]:
    """What a federation tells when Flower's `Strategy.start` drives it, and Flower's own result."""
    told: Told = []
    results: list[Result] = []

    def main(grid: Grid) -> None:
        strategy = Distillation(of, small.load, on_round=lambda number, rows: told.append((number, rows)))
        results.append(strategy.start(grid, ArrayRecord(), num_rounds=strategy.exchanges))

    served(grid, main)
    return told, results[0]


def by_rounds(of: Federation) -> Told:
    """What the same federation tells when `Rounds.start` drives it."""
    told: Told = []
    grid = grid_of(of.clients)
    Rounds(of, small.load).start(grid, list(grid.get_node_ids()), lambda number, rows: told.append((number, rows)))
    return told


def timeless(told: Told) -> Told:
    """Everything but the time it took."""
    return [(number, [row for row in rows if not row[2].endswith("seconds")]) for number, rows in told]


@pytest.mark.parametrize("method", ["local", "kd", "dml", "dp_kd", TUNED])
def test_flowers_loop_gives_the_rows_of_our_own(method: str) -> None:
    of = federation(method)
    told, _ = by_strategy(of, grid_of())
    assert timeless(told) == timeless(by_rounds(of))
    assert [number for number, _ in told] == [0, 1, 2, 3]


def test_the_loop_is_flowers_own() -> None:
    assert issubclass(Distillation, Strategy)
    assert Distillation.start is Strategy.start


def test_flowers_history_holds_the_means_over_clients() -> None:
    told, result = by_strategy(federation("kd"), grid_of())
    history = result.train_metrics_clientapp
    assert sorted(history) == [1, 2, 3, 4]
    for number, rows in told:
        metrics = history[number + 1]
        assert isinstance(metrics, MetricRecord)
        right = [
            value for client, split, metric, value in rows if client >= 0 and (split, metric) == ("test", "accuracy")
        ]
        assert metrics["test_accuracy"] == sum(right) / CLIENTS


def test_preparations_are_flower_rounds_without_a_mean() -> None:
    of = federation(TUNED)
    assert Distillation(of, small.load).exchanges == 5
    _, result = by_strategy(of, grid_of())
    assert sorted(result.train_metrics_clientapp) == [2, 3, 4, 5]


def test_more_nodes_than_clients_are_left_alone() -> None:
    of = federation("kd")
    assert timeless(by_strategy(of, grid_of(CLIENTS + 2))[0]) == timeless(by_rounds(of))


def test_a_client_that_fails_ends_the_server_app() -> None:
    def broken(of: Federation, client: int) -> Holdings:
        if client == 1:
            raise RuntimeError("the disk is full")
        return small.load(of, client)

    grid = InlineGrid(client_app(broken), CLIENTS)
    with pytest.raises(FederationError, match=r"1 of 3 clients failed.*the disk is full"):
        by_strategy(federation("kd"), grid)


def test_nodes_are_waited_for_only_so_long() -> None:
    with pytest.raises(TimeoutError, match="3 of 4 clients"):
        wait_for_nodes(grid_of(), CLIENTS + 1, timeout=0.1)


def test_nodes_come_in_ascending_order_and_no_more_than_asked_for() -> None:
    assert wait_for_nodes(grid_of(CLIENTS), 2) == [1, 2]


def test_tidying_up_leaves_nothing_on_the_clients_disks() -> None:
    def left() -> set[Path]:
        return set((cache_root() / "nodes").rglob("client-*"))

    before = left()
    grid = grid_of()
    by_strategy(federation("kd"), grid)
    assert left() > before, "clients keep their state where no store is given"
    tidy_up(grid, list(grid.get_node_ids()))
    assert left() == before
