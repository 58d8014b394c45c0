"""The order in which federations run: siblings of a start together, long ones first."""

from __future__ import annotations

import threading
from pathlib import Path

from simulations.journal import Journal
from simulations.queue import Queue, cost
from simulations.recipe import Recipe, expand

NEVER = threading.Event()


def recipe(**content: object) -> Recipe:
    return expand("small", {"method": "kd", "models": "mlp", "clients": 4, "rounds": 3} | content)


def order(of: Recipe) -> list[str]:
    """Methods and seeds in the order in which one lane takes them."""
    queue, taken = Queue([(each, Journal(Path("unused"), {})) for each in of.federations]), []
    while item := queue.take(NEVER):
        queue.started(item[0])
        taken.append(f"{item[0].method} {item[0].clients} {item[0].rounds} {item[0].seed}")
    return taken


def test_equally_long_ones_stay_in_the_order_of_the_recipe() -> None:
    of = recipe(method=["local", "kd", "dml"], seed=[0, 1])
    assert order(of) == [f"{method} 4 3 {seed}" for seed in (0, 1) for method in ("local", "kd", "dml")]


def test_a_search_runs_before_what_it_shares_its_start_with() -> None:
    search = "tuned_kd(temperatures=[1.0, 2.0], weights=[0.5], rounds=2)"
    (first, *_) = order(recipe(method=["local", "kd", search], seed=[0, 1]))
    assert first == f"{search} 4 3 0"


def test_many_clients_run_before_few_and_their_siblings_stay_together() -> None:
    of = recipe(method=["local", "kd"], clients=[2, 20], rounds=[1, 5])
    assert order(of) == [
        "local 20 5 0", "kd 20 5 0", "local 20 1 0", "kd 20 1 0", "local 2 5 0", "kd 2 5 0", "local 2 1 0", "kd 2 1 0",
    ]  # fmt: skip


def test_the_estimate_grows_with_rounds_clients_and_steps() -> None:
    one = cost(recipe().federations[0])
    assert cost(recipe(rounds=6).federations[0]) == 2 * one
    assert cost(recipe(clients=8).federations[0]) == 2 * one
    assert cost(recipe(participation=0.5).federations[0]) == one / 2
    assert cost(recipe(train={"epochs": 3}).federations[0]) == 3 * one
