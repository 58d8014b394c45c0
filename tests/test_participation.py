"""A share of the clients a round: what absent clients are owed, how old they are, and that a resume changes nothing."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from torch import Tensor

import analysis
from analysis.measures.scores import federation_scores
from analysis.results.absent import with_ends
from analysis.results.journal import ROW
from analysis.results.values import round_means
from fedkd.distillation.sources import Peers
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.knowledge.knowledge import Knowledge
from fedkd.node.holdings import Loader, Row
from fedkd.node.node import Node
from fedkd.protocol.keeping import saved_model
from fedkd.protocol.schedule import schedule_of
from simulations.accuracy import Accuracy
from simulations.engine import InlineGrid
from tests import small
from tests.small import own_cache
from tests.test_weights import judging

__all__ = ["own_cache"]

CLIENTS, ROUNDS, SHARE = 5, 6, 0.4
Numbers = dict[tuple[int, int, str, str], float]
METHODS = ("local", "kd", 'kd(refresh="every round")', "dml", "dp_kd", "fedavg", "ensemble")
COSTS = ("steps", "samples", "bytes_up", "bytes_down")


def run(
    method: str,
    store: Path | None = None,
    stop: int | None = None,
    nodes: int = CLIENTS,
    load: Loader = small.load,
    **given: Any,
) -> Numbers:
    """All rows but times; with `stop`, the federation is left after that round and taken up by a new server."""
    settings = {"clients": CLIENTS, "rounds": ROUNDS, "participation": SHARE} | given
    of = small.small(method, **settings)
    numbers: Numbers = {}
    grid = InlineGrid(client_app(load), nodes)

    def note(number: int, rows: list[Row]) -> None:
        numbers.update({(number, *row[:3]): row[3] for row in rows if not row[2].endswith("seconds")})
        if number == stop:
            raise InterruptedError

    try:
        Rounds(of, load, store).start(grid, list(grid.get_node_ids()), note)
    except InterruptedError:
        rest = Rounds(of, load, store)
        assert stop is not None
        assert rest.resume(stop)
        rest.start(grid, list(grid.get_node_ids()), note)
    return numbers


def table_of(numbers: Numbers, **given: Any) -> pd.DataFrame:
    """A results table of these rows, as it is read from a journal."""
    rows = pd.DataFrame([(*key, value) for key, value in numbers.items()], columns=ROW)
    settings: dict[str, Any] = {"participation": SHARE} | given
    table = with_ends(rows, settings).assign(federation="f", dataset="d", partition="p", method="m", seed=0)
    return table.sort_values(["round", "client", "split", "metric"], ignore_index=True)


def shown(numbers: Numbers, **given: Any) -> Numbers:
    """The rows of a results table in which those of absent clients are filled in."""
    table = analysis.filled(table_of(numbers, **given))
    whole = {(*map(int, row[:2]), *row[2:4]): row[4] for row in table[ROW].itertuples(index=False, name=None)}
    assert len(whole) == len(table)
    return whole


def present(method: str) -> dict[int, tuple[int, ...]]:
    """Who learns in each round."""
    of = schedule_of(small.small(method, clients=CLIENTS, rounds=ROUNDS, participation=SHARE))
    return {moment.round: of.participants(moment) for moment in of.moments if moment.round}


@pytest.mark.parametrize("method", METHODS)
def test_only_participants_have_costs_and_all_have_an_evaluation(method: str) -> None:
    numbers = shown(run(method))
    for number, clients in present(method).items():
        for client in range(CLIENTS):
            assert (number, client, "test", "accuracy") in numbers
            costs = [(number, client, "", metric) in numbers for metric in COSTS]
            assert costs == [client in clients] * len(COSTS)


@pytest.mark.parametrize("method", METHODS)
def test_an_absent_client_stays_what_it_was_and_its_age_is_told(method: str) -> None:
    numbers, last = shown(run(method)), dict.fromkeys(range(CLIENTS), 0)
    for number, clients in present(method).items():
        for client in range(CLIENTS):
            if client in clients:
                assert (number, client, "", "rounds_absent") not in numbers
                last[client] = number
            else:
                assert numbers[number, client, "", "rounds_absent"] == number - last[client]
                for metric in ("accuracy", "loss", "gained", "lost", "ece"):
                    before = numbers[last[client], client, "test", metric]
                    assert numbers[number, client, "test", metric] == before


@pytest.mark.parametrize("method", METHODS)
def test_by_class_it_is_told_of_all_at_the_end(method: str) -> None:
    numbers = shown(run(method))
    told = {(round, client) for round, client, split, metric in numbers if (split, metric) == ("test", "accuracy/0")}
    assert {(ROUNDS, client) for client in range(CLIENTS)} <= told


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("stop", [0, 1, 3, 5])
def test_left_after_any_round_and_taken_up_it_gives_the_same_rows(method: str, stop: int, tmp_path: Path) -> None:
    assert run(method, tmp_path, stop) == run(method)


def test_frozen_teachers_reach_a_client_when_it_first_takes_part() -> None:
    numbers, seen = run("kd"), set[int]()
    for number, clients in present("kd").items():
        for client in clients:
            # Once, whenever that is: afterwards the client keeps them.
            assert (numbers[number, client, "", "bytes_down"] > 0) == (client not in seen)
            seen.add(client)


@pytest.mark.parametrize("method", ["dml", 'kd(refresh="every round")'])
def test_absent_teachers_teach_what_they_knew_last(method: str, monkeypatch: pytest.MonkeyPatch) -> None:
    merged: list[dict[int, Tensor]] = []
    plain = Peers.merge

    def watched(self: Peers, server: Node, reports: Mapping[int, Knowledge]) -> dict[int, Knowledge]:
        merged.append({client: bag["logits"] for client, bag in reports.items()})
        return plain(self, server, reports)

    monkeypatch.setattr(Peers, "merge", watched)
    run(method)
    assert len(merged) == ROUNDS, "after the start and after every round but the last"
    for clients, before, after in zip(present(method).values(), merged, merged[1:], strict=False):
        assert after.keys() == set(range(CLIENTS))
        unchanged = {client for client in after if torch.equal(after[client], before[client])}
        assert unchanged == set(range(CLIENTS)) - set(clients)


def test_an_average_is_of_those_who_trained() -> None:
    # One client a round: the server's model is then that client's, whose test accuracy is the server's.
    numbers = run("fedavg", load=judging, participation=0.01)
    of = schedule_of(small.small("fedavg", clients=CLIENTS, rounds=ROUNDS, participation=0.01))
    for moment in of.moments[1:]:
        (client,) = of.participants(moment)
        mine, servers = (numbers[moment.round, who, "test", "loss"] for who in (client, -1))
        assert mine == pytest.approx(servers, abs=1e-6)


def test_a_client_that_never_takes_part_keeps_its_start() -> None:
    of = schedule_of(small.small("kd", clients=CLIENTS, rounds=1, participation=0.2))
    absent = of.absent(of.moments[1])
    assert len(absent) == CLIENTS - 1
    numbers = shown(run("kd", rounds=1, participation=0.2))
    for client in absent:
        assert numbers[1, client, "test", "accuracy"] == numbers[0, client, "test", "accuracy"]
        assert numbers[1, client, "", "rounds_absent"] == 1


@pytest.mark.parametrize("method", ["kd", "dml", "fedavg"])
def test_a_share_of_one_is_everybody(method: str) -> None:
    plain = run(method, participation=1.0)
    assert not [key for key in plain if key[3] == "rounds_absent"]
    assert {client for _, client, _, metric in plain if metric == "steps"} == set(range(CLIENTS))


@pytest.mark.parametrize("metric", ["accuracy", "gained", "ece", "steps"])
@pytest.mark.parametrize("method", METHODS)
def test_a_mean_over_clients_counts_the_absent_as_they_were(method: str, metric: str) -> None:
    table = table_of(run(method, load=judging))
    split = "" if metric == "steps" else "test"
    exact, filled = (round_means(each, metric, split) for each in (table, analysis.filled(table)))
    pd.testing.assert_series_equal(exact, filled)
    pd.testing.assert_frame_equal(federation_scores(table), federation_scores(analysis.filled(table)))


def test_a_federation_that_was_stopped_ends_with_everybody_too() -> None:
    numbers = {key: value for key, value in run("dml").items() if key[0] <= 4}
    table = table_of(numbers)
    assert set(table.loc[(table["round"] == 4) & (table["metric"] == "loss"), "client"]) == set(range(CLIENTS))


def test_clients_that_only_teach_are_not_carried_on() -> None:
    students = (0, 1, 2, 3)
    table = table_of(run("kd", students=students), students=list(students))
    assert set(analysis.filled(table).query("round > 0 and metric == 'accuracy'")["client"]) == set(students)


def test_progress_counts_the_absent_as_they_were() -> None:
    of = small.small("local", clients=CLIENTS, rounds=ROUNDS, participation=SHARE)
    accuracy, numbers = Accuracy(of), run("local")
    for number in range(ROUNDS + 1):
        accuracy.add(number, [(*key[1:], value) for key, value in numbers.items() if key[0] == number])
    whole = shown(numbers)
    for number in range(ROUNDS + 1):
        mean = sum(whole[number, client, "test", "accuracy"] for client in range(CLIENTS)) / CLIENTS
        assert accuracy.by_round[number] == pytest.approx(mean)


def test_a_round_has_as_many_rows_as_participants() -> None:
    few, many = (run("local", clients=clients, participation=2 / clients, rounds=3) for clients in (4, 24))
    for number in (1, 2, 3):
        one, other = ([key for key in numbers if key[0] == number and "/" not in key[3]] for numbers in (few, many))
        assert len(one) == len(other)
        assert len({key[1] for key in other if key[1] >= 0}) == 2


@pytest.mark.parametrize("save", ["last", "best"])
def test_every_clients_last_model_is_kept(save: str, tmp_path: Path) -> None:
    run("local", tmp_path, save=save)
    assert all(saved_model(tmp_path, client).is_file() for client in range(CLIENTS))


def test_absent_clients_share_one_model_in_memory_and_on_disk(tmp_path: Path) -> None:
    of = small.small("fedavg", clients=20, rounds=3, participation=0.1)
    rounds, grid = Rounds(of, small.load, tmp_path), InlineGrid(client_app(small.load), 20)
    sizes: list[int] = []

    def note(number: int, rows: list[Row]) -> None:
        del rows
        if number < of.rounds:
            assert len({id(bag) for bag in rounds.server._pending.values()}) <= 1
            sizes.append(max(file.stat().st_size for file in tmp_path.glob("server-*.state")))

    rounds.start(grid, list(grid.get_node_ids()), note)
    model = Knowledge(small.model().state_dict()).nbytes
    # What grows with the clients are their last evaluations, not models.
    assert max(sizes) < 3 * model + 20 * 1024


def test_a_shared_model_is_shared_again_after_a_resume(tmp_path: Path) -> None:
    of = small.small("fedavg", clients=6, rounds=2)
    grid, rounds = InlineGrid(client_app(small.load), 6), Rounds(of, small.load, tmp_path)

    def leave(number: int, rows: list[Row]) -> None:
        del rows
        if number == 1:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        rounds.start(grid, list(grid.get_node_ids()), leave)
    again = Rounds(of, small.load, tmp_path)
    assert again.resume(1)
    bags = again.server._pending
    assert len(bags) == 6
    assert len({id(bag) for bag in bags.values()}) == 1


def test_a_client_stores_no_model_that_its_next_round_replaces(tmp_path: Path) -> None:
    sizes = {}
    for method in ("fedavg", "local"):
        store, grid = tmp_path / method, InlineGrid(client_app(small.load), 2)
        running = Rounds(small.small(method, rounds=2), small.load, store)

        def note(number: int, rows: list[Row], store: Path = store, method: str = method) -> None:
            del rows
            if number == 1:
                sizes[method] = max(file.stat().st_size for file in store.glob("client-*-1.state"))

        running.start(grid, list(grid.get_node_ids()), note)
    model = sum(tensor.nbytes for tensor in small.model().state_dict().values())
    assert sizes["local"] - sizes["fedavg"] >= model
