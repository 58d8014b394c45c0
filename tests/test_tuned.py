"""A search chooses what an exhaustive computation by hand chooses, and then trains as if it had been known before."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from fedkd.base.errors import UserError
from fedkd.knowledge.knowledge import Knowledge
from fedkd.method import METHODS
from fedkd.methods.dml import DML
from fedkd.methods.kd import KD
from fedkd.methods.tuned import Tuned
from fedkd.node.node import Node
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.settings.training import Training
from fedkd.tuning.search import Search
from tests.small import (
    CLASSES,
    LABELLED,
    TRAINING,
    UNLABELLED,
    Outcome,
    Weights,
    distance,
    federate,
    node,
    preparing,
    same_weights,
    server,
    small,
    start,
    weights,
)
from tests.small import own_cache as own_cache

FORMS: dict[str, tuple[str, dict[str, Any]]] = {
    "one message": ("kd(wire='float32')", {"temperature": [4.0, 1.0], "weight": [0.2, 1.0]}),
    "a merge a cell": (
        "kd(merge_by='probabilities', wire='float32')",
        {"temperature": [1.0, 4.0], "teachers": ["others", "self"]},
    ),
    "teachers by lot": ("kd(teachers='k(1)', wire='float32')", {"weight": [0.2, 1.0]}),
    "an anchor": ("dp_kd(wire='float32')", {"temperature": [1.0, 3.0]}),
    "two anchors": ("dp_kd", {"wire": ["float16", "float32"]}),
    "nothing travels": ("local", {"lr": [0.02, 0.3]}),
    "side by side": ("dml(wire='float32')", {"lr": [0.02, 0.3], "reduce": ["mean", "sum"]}),
    "refreshed lots": ("kd(refresh='every round', teachers='k(1)', wire='float32')", {"weight": [0.2, 1.0]}),
    "weights": ("fedavg", {"lr": [0.02, 0.3]}),
}
"""Every way in which cells may be tried, by a method and a grid."""
EVERY_FORM = pytest.mark.parametrize("form", list(FORMS))


def tuned(form: str, rounds: int = 2, **further: Any) -> str:
    """The spec of one of the forms."""
    method, grid = FORMS[form]
    extra = "".join(f", {key}={value!r}" for key, value in further.items())
    return f"tuned(method={method!r}, grid={grid!r}, rounds={rounds}{extra})"


@cache
def run(spec: str, **settings: Any) -> Outcome:
    """A small federation, run once for all tests that look at it."""
    return federate(small(spec, **settings))


@cache
def by_hand(form: str, rounds: int = 2, **settings: Any) -> dict[str, Outcome]:
    """Each cell of a form as a federation of its own, by its label, the untuned one first."""
    spec, grid = FORMS[form]
    name, _, inside = spec.partition("(")
    given = METHODS.build(spec)
    found: dict[str, tuple[str, Training]] = {}
    plain = {key: getattr(given, key, getattr(TRAINING, key, None)) for key in grid}
    for values in (plain, *(dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values()))):
        training = replace(TRAINING, **{key: value for key, value in values.items() if key == "lr"})
        own = {key: value for key, value in values.items() if key != "lr"}
        old = dict(part.strip().split("=", 1) for part in inside.rstrip(")").split(",") if part)
        arguments = old | {key: repr(value) for key, value in own.items()}
        method = f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})" if arguments else name
        label = ",".join(f"{key}={value!r}" for key, value in values.items())
        found.setdefault(label, (method, training))
    return {
        label: run(method, rounds=rounds, train=training, **settings) for label, (method, training) in found.items()
    }


def chosen_of(outcome: Outcome) -> dict[int, str]:
    """The label of the chosen cell by who says so."""
    return {
        who: metric.removeprefix("tuning_chosen/")
        for _, who, _, metric in outcome.rows
        if metric.startswith("tuning_chosen/")
    }


def grid_of(outcome: Outcome, metric: str, client: int) -> dict[str, float]:
    """A client's scores by cell, as results hold them."""
    prefix = f"tuning_{metric}/"
    return {
        name.removeprefix(prefix): value
        for (_, who, split, name), value in outcome.rows.items()
        if who == client and split == "val" and name.startswith(prefix)
    }


def spent(outcome: Outcome, metric: str) -> float:
    """What a search cost all clients together."""
    return sum(value for (*_, name), value in outcome.rows.items() if name == f"tuning_{metric}")


class TestChoosing:
    @EVERY_FORM
    def test_the_grid_is_that_of_federations_run_one_by_one(self, form: str) -> None:
        outcome, alone = run(tuned(form), clients=3), by_hand(form, clients=3)
        for client in range(3):
            for metric in ("accuracy", "loss"):
                expected = {label: one.rows[2, client, "val", metric] for label, one in alone.items()}
                found = grid_of(outcome, metric, client)
                assert list(found) == list(expected), "the untuned cell first, then the grid in order"
                assert found == pytest.approx(expected, rel=2e-3)
            assert len({round(loss, 6) for loss in grid_of(outcome, "loss", client).values()}) > 1

    @EVERY_FORM
    @pytest.mark.parametrize("select", ["val_accuracy", "val_loss"])
    def test_the_best_mean_over_the_clients_is_chosen(self, form: str, select: str) -> None:
        outcome = run(tuned(form, select=select), clients=3)
        scores = [{m: grid_of(outcome, m, client) for m in ("accuracy", "loss")} for client in range(3)]

        def rank(label: str) -> tuple[float, float]:
            right = round(sum(each["accuracy"][label] for each in scores) / 3, 9)
            loss = sum(each["loss"][label] for each in scores) / 3
            return (-right, loss) if select == "val_accuracy" else (loss, -right)

        assert chosen_of(outcome) == {-1: min(scores[0]["accuracy"], key=rank)}

    @pytest.mark.parametrize("form", ["one message", "nothing travels", "side by side"])
    @pytest.mark.parametrize("select", ["val_accuracy", "val_loss"])
    def test_a_client_that_chooses_for_itself_takes_its_own_best(self, form: str, select: str) -> None:
        outcome = run(tuned(form, per="client", select=select), clients=3, rounds=1)
        chosen = chosen_of(outcome)
        assert sorted(chosen) == [0, 1, 2], "clients say what they chose, the server nothing"
        for client in range(3):
            accuracy, loss = (grid_of(outcome, metric, client) for metric in ("accuracy", "loss"))

            def rank(label: str, accuracy: Any = accuracy, loss: Any = loss) -> tuple[float, float]:
                scores = -accuracy[label], loss[label]
                return scores if select == "val_accuracy" else scores[::-1]

            assert chosen[client] == min(accuracy, key=rank)


class TestFairCells:
    """Every cell starts from the same state and sees the same batches."""

    @pytest.mark.parametrize(("form", "method"), [("one message", KD), ("side by side", DML)])
    def test_start_rounds_and_streams_are_equal(self, form: str, method: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        seen: list[tuple[Any, int, Weights, int, int]] = []
        learn = method.learn

        def watched(self: Any, client: Node, knowledge: Knowledge) -> None:
            draws = client.rng("batches/private", 0).initial_seed()
            seen.append(((self, client.training.lr), client.round, weights(client.student), draws, client.moment.since))
            before = client.steps
            learn(self, client, knowledge)
            assert client.steps - before == TRAINING.steps_a_round(len(client.private))

        monkeypatch.setattr(method, "learn", watched)
        outcome = federate(small(tuned(form, rounds=3), clients=2, rounds=0))
        assert not any(key[3] == "steps" and value for key, value in outcome.rows.items())
        for stream in {draws for *_, draws, _ in seen}:
            of_one = [entry for entry in seen if entry[3] == stream]
            cells = list(dict.fromkeys(cell for cell, *_ in of_one))
            assert len(cells) == 5
            for cell in cells:
                rounds = [entry for entry in of_one if entry[0] == cell]
                assert [entry[1] for entry in rounds] == [entry[4] for entry in rounds] == [1, 2, 3]
                assert same_weights(rounds[0][2], of_one[0][2])
                assert not same_weights(rounds[1][2], rounds[0][2])

    @pytest.mark.parametrize("form", ["one message", "side by side"])
    def test_the_search_leaves_the_client_as_it_found_it(self, form: str) -> None:
        method = METHODS.build(tuned(form))
        nodes = [node(client, round=0) for client in range(3)]
        sent = start(method, nodes, server())
        client = nodes[1]
        client.state["other"] = torch.arange(3.0)
        before, predicted = weights(client.student), client.transfer_logits().clone()
        client.moment = preparing(1)
        method.prepare(client, sent[1])
        assert len({tuple(key) for key in client.records if key[1].startswith("tuning")}) > 1
        assert same_weights(weights(client.student), before)
        assert torch.equal(client.transfer_logits(), predicted)
        assert (client.steps, client.samples, client.round, client.moment.since) == (0, 0, 0, 1)
        assert client.training == TRAINING
        assert torch.equal(client.state["other"], torch.arange(3.0))
        assert all(name == "other" or name.startswith("tuning/") for name in client.state)


class TestAfterwards:
    @pytest.mark.parametrize(
        ("form", "transfer"),
        [*((form, UNLABELLED) for form in FORMS), ("one message", LABELLED), ("side by side", LABELLED)],
    )
    def test_training_is_that_of_the_chosen_cell_to_the_last_bit(self, form: str, transfer: str) -> None:
        settings: dict[str, Any] = {"clients": 3, "rounds": 3, "transfer": transfer}
        outcome = run(tuned(form), **settings)
        alone = by_hand(form, **settings)[chosen_of(outcome)[-1]]
        for client in range(3):
            assert len(outcome.weights[client]) == 4
            for found, expected in zip(outcome.weights[client], alone.weights[client], strict=True):
                assert same_weights(found, expected)
        assert distance(outcome.final(0), outcome.weights[0][0]) > 1e-3

    @pytest.mark.parametrize("seed", range(3))
    @pytest.mark.parametrize("form", ["one message", "side by side"])
    def test_so_it_is_where_each_client_chose(self, form: str, seed: int) -> None:
        outcome = federate(small(tuned(form, per="client"), clients=3, rounds=1, seed=seed))
        alone = by_hand(form, clients=3, seed=seed)
        for client, label in chosen_of(outcome).items():
            assert same_weights(outcome.weights[client][1], alone[label].weights[client][1])

    def test_nothing_of_the_search_is_left_with_the_client(self, tmp_path: Path) -> None:
        from fedkd.base.store import read_tensors

        for form in FORMS:
            of = small(tuned(form, rounds=1), rounds=3)
            store = tmp_path / form
            federate(of, store=store)
            state = read_tensors(store / f"client-0-{schedule_of(of).method.preparations + 2}.state")
            assert state is not None
            left = {name for name in state if name.startswith("state/tuning/")}
            assert left <= {"state/tuning/chosen", "state/tuning/bags"}, form


class TestTravelling:
    def names(self, bags: Mapping[int, Knowledge]) -> list[str]:
        return sorted({name for bag in bags.values() for name in bag})

    def test_equal_merges_travel_once(self) -> None:
        outcome = federate(small(tuned("one message"), rounds=2))
        assert [self.names(sent) for sent in outcome.knowledge] == [[], ["logits"], ["tuning/chosen"], []]
        assert [self.names(told) for told in outcome.reports] == [["logits"], ["tuning/scores"], [], []]

    def test_different_merges_travel_each_once(self) -> None:
        outcome = federate(small(tuned("a merge a cell"), clients=3, rounds=1))
        # T = 1 and 4 from the others; whoever is its own teacher is told nothing.
        assert [name for name in outcome.knowledge[1][0] if name.endswith("logits")] == ["bag0/logits", "bag2/logits"]
        told, alone = outcome.knowledge[1][0], by_hand("a merge a cell", clients=3)
        for number, one in zip(told["tuning/shares"].tolist(), alone.values(), strict=True):
            expected = one.knowledge[1][0].get("logits")
            assert (f"bag{number}/logits" in told) is (expected is not None)
            assert expected is None or torch.equal(told[f"bag{number}/logits"], expected)

    def test_side_by_side_every_cell_hears_what_it_would_hear_alone(self) -> None:
        outcome, alone = run(tuned("side by side"), clients=3), by_hand("side by side", clients=3)
        for step in (1, 2):
            for client in range(3):
                told = outcome.knowledge[step][client]
                shares = told["tuning/shares"].tolist() if "tuning/shares" in told else [0] * len(alone)
                for number, one in zip(shares, alone.values(), strict=True):
                    found = told[f"bag{number}/logits"] if f"bag{number}/logits" in told else told["logits"]
                    expected = one.knowledge[step][client]["logits"]
                    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)

    def test_where_nothing_travels_only_scores_and_the_choice_do(self) -> None:
        outcome = federate(small(tuned("nothing travels"), rounds=2))
        assert [self.names(sent) for sent in outcome.knowledge] == [[], [], ["tuning/chosen"], []]
        assert [self.names(told) for told in outcome.reports] == [[], ["tuning/scores"], [], []]


class TestCost:
    def test_every_method_pays_the_same_for_equal_grids(self) -> None:
        grid = {"lr": [0.05, 0.1, 0.2]}
        found = {
            method: spent(federate(small(f"tuned(method={method!r}, grid={grid!r}, rounds=2)", clients=3)), "steps")
            for method in ("local", "kd", "kd(refresh='every round')", "dml", "dp_kd", "fedavg")
        }
        assert set(found.values()) == {3 * 2 * (3 + 4 + 4)}, "cells × rounds × ⌈10, 13, 16 samples / 4⌉"

    def test_samples_are_counted_too(self) -> None:
        outcome = federate(small(tuned("one message"), clients=2))
        # Four cells and the untuned one: three take private and transfer batches of 4, two transfer batches alone.
        assert spent(outcome, "samples") == 2 * (3 + 4) * (3 * 8 + 2 * 4)
        assert not any(
            value for (e, *_, name), value in outcome.rows.items() if e == 1 and name in ("steps", "samples")
        )


class TestPrivateTransfer:
    """Without a transfer set models travel, and each student predicts with them on its own samples."""

    @pytest.mark.parametrize("form", ["one message", "a merge a cell", "side by side"])
    def test_it_trains_as_the_chosen_cell_would(self, form: str) -> None:
        from fedkd.node.holdings import Holdings
        from tests.small import load

        def without(federation: Federation, client: int) -> Holdings:
            held = load(federation, client)
            judged = {split: data for split, data in held.evaluation.items() if split != "transfer"}
            return replace(held, transfer=None, evaluation=judged)

        outcome = federate(small(tuned(form), clients=3), without)
        spec, grid = FORMS[form]
        label = chosen_of(outcome)[-1]
        method = METHODS.build(tuned(form))
        assert isinstance(method, Search)
        (cell,) = (each for each in method.cells(server()) if each.label == label)
        alone = federate(small("local", clients=3, train=cell.training), without)
        assert same_weights(alone.weights[0][0], outcome.weights[0][0])
        name = spec.partition("(")[0]
        arguments = {key: getattr(cell.method, key) for key in (*grid, "merge_by", "wire") if hasattr(cell.method, key)}
        direct = f"{name}({', '.join(f'{key}={value!r}' for key, value in arguments.items())})"
        expected = federate(small(direct, clients=3, train=cell.training), without)
        assert all(same_weights(outcome.final(client), expected.final(client)) for client in range(3))


class TestDiverging:
    def test_a_cell_that_diverges_loses_and_harms_nobody(self) -> None:
        for method in ("kd", "dml", "kd(refresh='every round')", "fedavg"):
            spec = f"tuned(method={method!r}, grid={{'lr': [1e30, 0.05]}}, rounds=3)"
            outcome = federate(small(spec, clients=3))
            assert chosen_of(outcome)[-1] in ("lr=0.1", "lr=0.05")
            # What is sent is finite, or Rounds would refuse the whole federation.
            for bag in (bag for bags in outcome.reports for bag in bags.values()):
                assert all(bool(tensor.isfinite().all()) for tensor in bag.values() if tensor.is_floating_point())


def test_a_shard_too_small_for_validation_has_no_say() -> None:
    from tests.small import load, samples

    def without(federation: Federation, client: int) -> Any:
        held = load(federation, client)
        return replace(held, val=samples(0, "none")) if client == 1 else held

    spec = tuned("one message")
    outcome = federate(small(spec, clients=3), without)
    assert "tuning/scores" not in outcome.reports[1].get(1, Knowledge())
    loss = [grid_of(outcome, "loss", client) for client in (0, 2)]
    accuracy = [grid_of(outcome, "accuracy", client) for client in (0, 2)]
    best = min(
        loss[0],
        key=lambda label: (-round(sum(a[label] for a in accuracy), 9), sum(each[label] for each in loss)),
    )
    assert chosen_of(outcome) == {-1: best}


def test_it_is_a_method_like_any_other() -> None:
    built = METHODS.build(tuned("one message"))
    assert isinstance(built, Tuned)
    assert built == METHODS.build(tuned("one message"))
    assert hash(built) == hash(METHODS.build(tuned("one message")))
    of = small(tuned("one message"))
    assert schedule_of(Federation.from_json(of.to_json())).method == built
    with pytest.raises(UserError, match='val = "local"'):
        built.check(small(tuned("one message"), val="common"), labelled=False)
    assert CLASSES == 3
    assert Training().lr == 0.05
