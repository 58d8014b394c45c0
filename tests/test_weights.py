"""Methods whose models travel: averaging against Flower's own, private transfer, bounds, common validation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, MetricRecord, RecordDict
from flwr.serverapp.strategy.strategy_utils import aggregate_arrayrecords
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.knowledge.knowledge import Knowledge
from fedkd.knowledge.weights import Ensemble, average, packed, unpacked
from fedkd.method import METHODS
from fedkd.models import restored_model
from fedkd.node.holdings import Holdings, Row
from fedkd.node.node import SERVER
from fedkd.protocol.schedule import schedule_of
from fedkd.settings.federation import Federation
from fedkd.settings.training import Training
from fedkd.tensors.ensemble import mean_logits
from fedkd.tensors.losses import cross_entropy
from fedkd.tensors.samples import Data
from fedkd.training.batch import Batch
from simulations.data import load_holdings
from simulations.engine import InlineGrid
from simulations.splits import split_of
from tests import small
from tests.small import own_cache

__all__ = ["own_cache"]

Numbers = dict[tuple[int, int, str, str], float]


def private(federation: Federation, client: int) -> Holdings:
    """The loader of tests/small.py without a transfer set, and with something for the server to judge by."""
    held = small.load(federation, client)
    judged = {"test": small.samples(40, "test"), **({} if client == SERVER else {"val": held.evaluation["val"]})}
    return Holdings(held.shape, held.classes, held.data, held.val, None, judged)


def judging(federation: Federation, client: int) -> Holdings:
    """The loader of tests/small.py, whose server judges by the test set too."""
    held = small.load(federation, client)
    if client != SERVER:
        return held
    return Holdings(held.shape, held.classes, None, None, held.transfer, {"test": small.samples(40, "test")})


def run(of: Federation, load: Any = judging, store: Path | None = None) -> Numbers:
    numbers: Numbers = {}

    def note(number: int, rows: list[Row]) -> None:
        numbers.update({(number, *row[:3]): row[3] for row in rows if not row[2].endswith("seconds")})

    grid = InlineGrid(client_app(load), of.clients)
    Rounds(of, load, store).start(grid, list(grid.get_node_ids()), note)
    return numbers


class TestAverage:
    def test_it_is_flower_s(self) -> None:
        nodes = [small.node(client) for client in range(3)]
        sizes = [len(node.private) for node in nodes]
        replies = []
        for node, size in zip(nodes, sizes, strict=True):
            content = RecordDict(
                {
                    "arrays": ArrayRecord(node.student.state_dict()),
                    "metrics": MetricRecord({"num-examples": size}),
                }
            )
            replies.append(content)
        flower = aggregate_arrayrecords(replies, "num-examples").to_torch_state_dict()
        ours = average([node.student.state_dict() for node in nodes], [float(size) for size in sizes])
        assert flower.keys() == ours.keys()
        for name, value in flower.items():
            assert torch.allclose(value, ours[name], atol=1e-6), name

    def test_equal_states_are_their_own_average_and_shares_are_weights(self) -> None:
        states = [small.weights(small.model(seed)) for seed in range(2)]
        assert small.distance(average([states[0]] * 3, [1.0, 5.0, 2.0]), states[0]) < 1e-7
        assert small.same_weights(average(states, [1.0, 0.0]), states[0])
        by_hand = {name: 0.25 * states[0][name] + 0.75 * states[1][name] for name in states[0]}
        assert small.distance(average(states, [1.0, 3.0]), by_hand) < 1e-6

    def test_counts_stay_whole_numbers(self) -> None:
        mean = average([{"seen": torch.tensor(2)}, {"seen": torch.tensor(5)}], [1.0, 1.0])["seen"]
        assert mean.dtype == torch.int64
        assert int(mean) in (3, 4)


class TestFedAvg:
    def test_a_round_is_local_steps_from_the_mean_then_the_mean(self) -> None:
        of = small.small("fedavg", clients=3, rounds=2)
        outcome = small.federate(of, judging)
        plain = small.federate(small.small("local", clients=3, rounds=1), judging)
        sizes = [10.0, 13.0, 16.0]
        mean = average([plain.weights[client][0] for client in range(3)], sizes)
        for client in range(3):
            sent = unpacked(outcome.knowledge[1][client])
            assert small.distance(sent, mean) < 1e-7
        again = average([outcome.weights[client][1] for client in range(3)], sizes)
        assert small.distance(unpacked(outcome.knowledge[2][0]), again) < 1e-7

    def test_one_client_alone_trains_on_as_local_does(self) -> None:
        alone, local = (small.federate(small.small(method, clients=1), judging) for method in ("fedavg", "local"))
        assert small.same_weights(alone.final(0), local.final(0))

    def test_the_server_s_model_is_judged_in_every_round(self) -> None:
        of = small.small("fedavg", clients=3, rounds=2)
        numbers, outcome = run(of), small.federate(of, judging)
        test = small.samples(40, "test")
        for number in range(3):
            mean = average([unpacked(outcome.reports[number][c]) for c in range(3)], [10.0, 13.0, 16.0])
            model = restored_model(small.MODEL, small.SHAPE, small.CLASSES, mean).eval()
            assert test.y is not None
            correct = float(model(test.x).argmax(1).eq(test.y).double().mean())
            assert numbers[number, SERVER, "test", "accuracy"] == correct

    def test_it_resumes_to_the_same_server_rows(self, tmp_path: Path) -> None:
        of = small.small("fedavg", clients=3, rounds=3)
        whole = run(of)
        kept: Numbers = {}

        def note(number: int, rows: list[Row]) -> None:
            kept.update({(number, *row[:3]): row[3] for row in rows if not row[2].endswith("seconds")})
            if number == 1 and not resumed:
                raise InterruptedError

        resumed = False
        grid = InlineGrid(client_app(judging), 3)
        with pytest.raises(InterruptedError):
            Rounds(of, judging, tmp_path).start(grid, list(grid.get_node_ids()), note)
        resumed = True
        rest = Rounds(of, judging, tmp_path)
        assert rest.resume(1)
        rest.start(grid, list(grid.get_node_ids()), note)
        assert kept == whole

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"models": "cnn|mlp"}, "cnn at clients 0, 2; mlp at clients 1"),
            ({"init": "per_client"}, r'init = "common", or, for a method, fedavg\(force=true\)'),
            ({"teachers": (0,)}, "leave the recipe key 'teachers' out"),
        ],
    )
    def test_what_cannot_be_averaged_is_refused_naming_the_clients(self, settings: Any, message: str) -> None:
        of = Federation("fedavg", clients=3, **settings)
        with pytest.raises(UserError, match=message):
            schedule_of(of).method.check(of, labelled=False)

    def test_own_inits_may_be_averaged_on_demand(self) -> None:
        of = Federation("fedavg(force=true)", clients=3, init="per_client")
        schedule_of(of).method.check(of, labelled=False)


class TestFedProx:
    def test_without_a_pull_it_is_fedavg(self) -> None:
        plain, prox = (
            small.federate(small.small(method, clients=3), judging) for method in ("fedavg", "fedprox(mu=0.0)")
        )
        assert all(small.same_weights(plain.final(client), prox.final(client)) for client in range(3))

    def test_the_pull_is_mu_times_the_distance(self) -> None:
        # One step from the server's model feels no pull; the second is pulled back by lr·µ·(w₁ − w₀).
        mu, lr, results = 0.7, 0.1, []
        for method in (METHODS.build("fedavg"), METHODS.build(f"fedprox(mu={mu})")):
            node = small.node(training=Training(lr=lr, batch_size=4, steps=2))
            start = small.weights(node.student)
            method.learn(node, Knowledge(packed(node.student)))
            results.append(small.weights(node.student))
        once = small.node(training=Training(lr=lr, batch_size=4, steps=1))
        METHODS.build("local").learn(once, Knowledge())
        first = small.weights(once.student)
        for name, value in results[1].items():
            pull = lr * mu * (first[name] - start[name])
            assert torch.allclose(value, results[0][name] - pull, atol=1e-6), name

    def test_a_strong_pull_keeps_the_clients_together(self) -> None:
        def spread(method: str) -> float:
            outcome = small.federate(small.small(method, clients=3, rounds=3, train=Training(lr=0.1, steps=8)), judging)
            return small.distance(outcome.final(0), outcome.final(2))

        assert spread("fedprox(mu=5.0)") < 0.7 * spread("fedprox(mu=0.01)")


class TestBounds:
    def test_the_ensemble_is_the_mean_of_all_probabilities(self) -> None:
        models = [small.model(seed) for seed in range(3)]
        x = small.samples(20, "x").x
        mean = torch.stack([torch.softmax(model(x), dim=1) for model in models]).mean(0)
        assert torch.allclose(torch.softmax(Ensemble(models)(x), dim=1), mean, atol=1e-6)

    def test_its_clients_train_on_as_local_does_and_the_server_is_judged(self) -> None:
        of = small.small("ensemble", clients=3)
        ensemble, local = small.federate(of, judging), small.federate(small.small("local", clients=3), judging)
        assert all(small.same_weights(ensemble.final(client), local.final(client)) for client in range(3))
        numbers, test = run(of), small.samples(40, "test")
        members = [restored_model(small.MODEL, small.SHAPE, small.CLASSES, local.final(c)).eval() for c in range(3)]
        probabilities = torch.stack([torch.softmax(member(test.x), dim=1) for member in members]).mean(0)
        assert test.y is not None
        correct = float(probabilities.argmax(1).eq(test.y).double().mean())
        assert numbers[2, SERVER, "test", "accuracy"] == correct
        assert {key[1] for key in numbers if key[2:] == ("", "bytes_down")} == {0, 1, 2}
        assert all(numbers[number, 0, "", "bytes_down"] == 0 for number in range(3))

    def test_it_may_be_of_different_models(self) -> None:
        numbers = run(small.small("ensemble", clients=2, models=f"{small.MODEL}|mlp(hidden=[5])"))
        assert (2, SERVER, "test", "accuracy") in numbers

    def test_pooled_is_local_of_one_client_with_everything(self) -> None:
        of = Federation("pooled", clients=4, partition="dirichlet(alpha=0.3)", rounds=1, seed=1)
        split, held = split_of(of), load_holdings(of, 0)
        assert held.data is not None
        assert len(held.data) == sum(map(len, split.clients))
        assert held.val is not None
        assert len(held.val) == sum(map(len, split.val))
        grid = InlineGrid(client_app(load_holdings), 4)
        schedule = schedule_of(of)
        assert all(schedule.participants(moment) == (0,) for moment in schedule.moments)
        del grid


class TestPrivateTransfer:
    def test_predictions_are_the_teachers_on_the_student_s_own_samples(self) -> None:
        of = small.small("kd(temperature=2.0)", clients=3, transfer="private")
        outcome = small.federate(of, private)
        for student in range(3):
            data = private(of, student).data
            assert data is not None
            teachers = [
                restored_model(small.MODEL, small.SHAPE, small.CLASSES, outcome.weights[t][0]).eval()
                for t in range(3)
                if t != student
            ]
            expected = mean_logits(torch.stack([teacher(data.x) for teacher in teachers]).detach())
            by_hand = distilled_by_hand(of, outcome.weights[student][0], data, expected, student)
            assert small.distance(outcome.weights[student][1], by_hand) < 1e-6

    def test_bytes_are_those_of_the_models(self) -> None:
        numbers = run(small.small("kd", clients=3, transfer="private"), private)
        size = Knowledge(packed(small.model())).nbytes
        for client in range(3):
            assert numbers[0, client, "", "bytes_up"] == size
            assert numbers[1, client, "", "bytes_down"] == 2 * size
            assert numbers[2, client, "", "bytes_down"] == 0

    @pytest.mark.parametrize("method", ["kd", 'kd(refresh="every round")', "dml", "dp_kd", "kd(teachers='k(1)')"])
    def test_every_exchange_of_predictions_runs_with_different_models(self, method: str) -> None:
        of = small.small(method, clients=3, transfer="private", models=f"{small.MODEL}|mlp(hidden=[5])")
        first, again = run(of, private), run(of, private)
        assert first == again
        assert {key[0] for key in first if key[3] == "accuracy"} == {0, 1, 2}

    def test_no_teacher_s_samples_are_needed(self) -> None:
        held = load_holdings(Federation("kd", clients=4, transfer="private"), 1)
        assert held.transfer is None
        assert "transfer" not in held.evaluation
        split = split_of(Federation("kd", clients=4, transfer="private"))
        assert not len(split.transfer)


def distilled_by_hand(of: Federation, start: small.Weights, data: Data, teacher: Tensor, client: int) -> small.Weights:
    """One round of kd on the student's own samples, in plain torch."""
    copied = {name: value.clone() for name, value in start.items()}
    model = restored_model(small.MODEL, small.SHAPE, small.CLASSES, copied).train()
    n, size = len(data), min(of.train.batch_size, len(data))
    steps = of.train.steps_a_round(n)
    node = small.node(client)
    passes = -(-steps * size // n)
    order = torch.cat([torch.randperm(n, generator=node.rng("batches/private", part)) for part in range(passes)])
    parameters = list(model.parameters())
    assert data.y is not None
    for step in range(steps):
        batch = order[step * size : (step + 1) * size]
        logits = model(data.x[batch])
        temperature = 2.0
        p = torch.softmax(teacher[batch] / temperature, dim=1)
        log_q = torch.log_softmax(logits / temperature, dim=1)
        distance = (p * (p.log() - log_q)).sum(1).mean() * temperature**2
        value = 0.5 * cross_entropy(logits, data.y[batch]) + 0.5 * distance
        for parameter, gradient in zip(parameters, torch.autograd.grad(value, parameters), strict=True):
            parameter.data -= of.train.lr * gradient
    return small.weights(model)


class TestCommonValidation:
    def test_it_is_uniform_held_out_and_the_server_s_alone(self) -> None:
        of = Federation("fedavg", clients=4, partition="pathological(classes=2)", val="common")
        split = split_of(of)
        assert not isinstance(split.val, tuple)
        held = [load_holdings(of, client) for client in (*range(4), SERVER)]
        assert all(client.val is None for client in held[:4])
        server = held[4]
        assert server.val is not None
        assert len(server.val) == len(split.val)
        assert server.val.y is not None
        shares = np.bincount(server.val.y.numpy(), minlength=10) / len(server.val)
        assert shares.max() < 0.15
        everything = np.concatenate([*split.clients, split.transfer, split.val, split.dropped])
        assert len(np.unique(everything)) == len(everything)

    def test_both_sides_are_reported_on_it(self) -> None:
        of = Federation("fedavg", clients=4, val="common")
        client, server = load_holdings(of, 0), load_holdings(of, SERVER)
        assert torch.equal(client.evaluation["val"].x, server.evaluation["val"].x)


def test_a_loss_of_its_own_is_kept_by_methods_that_average() -> None:
    batch = Batch(small.node(), torch.zeros(2, 3), torch.tensor([0, 1]), None, None, None)
    assert float(METHODS.build("fedprox").loss(batch)) == pytest.approx(np.log(3))
