"""Deep mutual learning: its gradient, its orders, and the original's algorithm step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from fedkd.base.errors import UserError
from fedkd.base.streams import stream
from fedkd.flower.apps import client_app
from fedkd.flower.rounds import Rounds
from fedkd.knowledge.knowledge import Knowledge, to_wire
from fedkd.methods.dml import DML
from fedkd.models import Model, build_model
from fedkd.node.holdings import Holdings, Row
from fedkd.node.node import SERVER, Node
from fedkd.settings.federation import Federation
from fedkd.settings.training import Training
from fedkd.tensors import ensemble
from fedkd.training.batch import Batch
from simulations.engine import InlineGrid
from tests import small
from tests.small import (
    CLASSES,
    LABELLED,
    MODEL,
    SHAPE,
    TRAINING,
    UNLABELLED,
    distance,
    federate,
    node,
    same_outcome,
    same_weights,
    server,
    start,
    travelled,
    weights,
)
from tests.small import own_cache as own_cache

BOTH = pytest.mark.parametrize("transfer", [UNLABELLED, LABELLED], ids=["unlabelled", "labelled"])
ONE_STEP = Training(lr=0.1, batch_size=4, steps=1)
MIXED = f"{MODEL}|cnn(width=4, hidden=8)"
Numbers = dict[tuple[int, int, str, str], float]


def logits(*name: int | str, n: int = 6, peers: int | None = None) -> Tensor:
    """Random logits (n, classes) or (peers, n, classes), by name."""
    shape = (n, CLASSES) if peers is None else (peers, n, CLASSES)
    return torch.randn(*shape, generator=stream("logits", *name)) * 2


def batch_of(student: Tensor, teacher: Tensor, clients: int) -> Batch:
    """A batch with one labelled sample whose logits are constants: cross-entropy has no gradient."""
    return Batch(node(clients=clients), torch.zeros(1, CLASSES), torch.tensor([0]), student, teacher, None)


def divergence(p: Tensor, q: Tensor) -> Tensor:
    """Mean over samples of KL(p ‖ q), from probabilities."""
    return (p * (p.log() - q.log())).sum(1).mean()


def stepwise(spec: str, **settings: Any) -> Federation:
    """A federation whose rounds are steps, in float32."""
    return small.small(spec, **({"train": ONE_STEP, "rounds": 7} | settings))


def network(spec: str, state: small.Weights) -> Model:
    """A model with these weights."""
    made = build_model(spec, SHAPE, CLASSES, 0, "init")
    made.load_state_dict(state)
    return made.eval()


class TestObjective:
    """Mutual learning is distillation from the mean of the peers' probabilities."""

    @BOTH
    @pytest.mark.parametrize("clients", [2, 3])
    def test_it_is_kd_of_probabilities_at_twice_the_learning_rate(self, transfer: str, clients: int) -> None:
        # kd at w = ½ is ½·(CE + KL) = ½·L_dml: at twice the learning rate, plain SGD takes the same steps.
        twice = replace(TRAINING, lr=2 * TRAINING.lr)
        same = 'kd(temperature=1.0, weight=0.5, merge_by="probabilities", refresh="every round", wire="float32")'
        common: dict[str, Any] = {"clients": clients, "rounds": 4, "transfer": transfer}
        dml = federate(small.small('dml(wire="float32")', **common))
        kd = federate(small.small(same, train=twice, **common))
        half = federate(small.small(same, **common))
        for client in range(clients):
            assert distance(dml.final(client), kd.final(client)) <= 1e-5
            assert distance(dml.final(client), half.final(client)) > 0.01
            assert distance(dml.final(client), dml.weights[client][0]) > 0.01

    @pytest.mark.parametrize(
        ("settings", "holds"),
        [({"momentum": 0.9}, True), ({"weight_decay": 0.1}, False), ({"optimizer": "adam", "lr": 0.01}, False)],
    )
    def test_that_is_so_with_sgd_without_decay_alone(self, settings: dict[str, Any], holds: bool) -> None:
        train = replace(TRAINING, **settings)
        same = 'kd(temperature=1.0, weight=0.5, merge_by="probabilities", refresh="every round", wire="float32")'
        dml = federate(small.small('dml(wire="float32")', train=train))
        kd = federate(small.small(same, train=replace(train, lr=2 * train.lr)))
        apart = max(distance(dml.final(client), kd.final(client)) for client in range(len(dml.weights)))
        assert apart <= 1e-4 if holds else apart > 1e-3

    @pytest.mark.parametrize("reduce", ["mean", "sum"])
    @pytest.mark.parametrize("peers", [1, 2, 4])
    def test_its_gradient_is_that_of_each_peer_for_itself(self, reduce: Any, peers: int) -> None:
        dml = DML(reduce=reduce, wire="float32")
        student = logits("student").requires_grad_()
        others = logits("peers", peers=peers)
        loss = dml.loss(batch_of(student, dml.combine(node(), others), peers + 1))
        (found,) = torch.autograd.grad(loss, student)
        # Σ_j KL(p_j ‖ p_i) written out; reduced by the sum or the mean over peers, and the mean over samples.
        each = torch.stack([divergence(peer.softmax(1), student.softmax(1)) for peer in others])
        (expected,) = torch.autograd.grad(each.sum() if reduce == "sum" else each.mean(), student)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)

    @pytest.mark.parametrize("reduce", ["mean", "sum"])
    def test_identical_models_have_nothing_to_learn_from_each_other(self, reduce: Any) -> None:
        method = DML(reduce=reduce, wire="float32")
        nodes = [node(client) for client in range(3)]
        for client in nodes:
            client.models["student"] = small.model(7)
        sent = start(method, nodes, server())
        student = nodes[0].transfer_logits().clone().requires_grad_()
        (gradient,) = torch.autograd.grad(method.loss(batch_of(student, sent[0]["logits"], 3)), student)
        assert float(gradient.abs().max()) <= 1e-6

    def test_with_a_single_peer_the_sum_is_the_mean(self) -> None:
        outcomes = [federate(small.small(f"dml(reduce='{reduce}')")) for reduce in ("mean", "sum")]
        assert same_weights(outcomes[0].final(0), outcomes[1].final(0))

    def test_with_more_peers_the_sum_weighs_them_more(self) -> None:
        outcomes = [federate(small.small(f"dml(reduce='{reduce}')", clients=3)) for reduce in ("mean", "sum")]
        assert distance(outcomes[0].final(0), outcomes[1].final(0)) > 1e-3

    def test_it_needs_a_peer(self) -> None:
        with pytest.raises(UserError, match="nobody else may teach client 0"):
            DML().check(small.small("dml", clients=1), labelled=False)


class TestAlternating:
    """One client after the other; the others wait, and nothing travels that is known already."""

    SPEC = 'dml(order="alternating", wire="float32")'

    def test_a_client_learns_when_the_round_is_its_place(self) -> None:
        outcome = federate(small.small(self.SPEC, clients=3, rounds=7))
        for number in range(1, 8):
            for client, steps in enumerate((3, 4, 4)):  # ⌈10 / 4⌉, ⌈13 / 4⌉, ⌈16 / 4⌉
                learns = client == number % 3
                assert outcome.rows[number, client, "", "steps"] == (steps if learns else 0)
                assert (outcome.rows[number, client, "", "samples"] > 0) is learns
                before, after = outcome.weights[client][number - 1 : number + 1]
                assert same_weights(before, after) is not learns

    def test_only_who_learns_is_told_something_and_only_who_learnt_says_something(self) -> None:
        outcome = federate(small.small(self.SPEC, clients=3, rounds=7))
        assert [sorted(sent) for sent in outcome.knowledge] == [[], [1], [2], [0], [1], [2], [0], [1]]
        assert [sorted(said) for said in outcome.reports] == [[0, 1, 2], [1], [2], [0], [1], [2], [0], []]

    @pytest.mark.parametrize("wire", ["float16", "float32"])
    def test_the_learner_is_told_what_all_others_know_by_then(self, wire: str) -> None:
        outcome = federate(small.small(f"dml(order='alternating', wire='{wire}')", clients=4, rounds=9))
        x = small.samples(14, "transfer").x
        for number in range(1, 10):
            learner = number % 4
            others = [client for client in range(4) if client != learner]
            with torch.inference_mode():
                known = [network(MODEL, outcome.weights[client][number - 1])(x) for client in others]
            expected = ensemble.mean_probabilities(torch.stack([to_wire(each, wire).float() for each in known]))
            found = outcome.knowledge[number][learner]["logits"].float()
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-2 if wire == "float16" else 1e-5)

    def test_with_one_learner_it_is_simultaneous(self) -> None:
        settings: dict[str, Any] = {"clients": 3, "rounds": 3, "students": (1,)}
        one, other = (
            rounds_of(small.small(f"dml(order='{order}')", **settings)) for order in ("simultaneous", "alternating")
        )
        assert one == other
        assert one[3, 1, "", "steps"] == 4

    def test_a_learner_that_does_not_teach_is_never_heard_and_still_taught(self) -> None:
        numbers = rounds_of(small.small(self.SPEC, clients=4, rounds=4, students=(0, 1), teachers=(1, 3)))
        assert [numbers[number, 0, "", "steps"] for number in range(1, 5)] == [0, 3, 0, 3]
        assert [numbers[number, 1, "", "steps"] for number in range(1, 5)] == [4, 0, 4, 0]
        assert all(numbers[number, 0, "", "bytes_up"] == 0 for number in range(5))
        assert [numbers[number, 0, "", "bytes_down"] > 0 for number in range(5)] == [False, False, True, False, True]
        assert [numbers[number, 1, "", "bytes_up"] > 0 for number in range(5)] == [True, True, False, True, False]

    def test_what_else_the_server_keeps_is_left_alone(self) -> None:
        method, at = DML(order="alternating"), server()
        at.state["of a search"] = torch.arange(3.0)
        at.round = 0
        sent = start(method, [node(client, round=0) for client in range(3)], at)
        assert sorted(sent) == [1]
        assert torch.equal(at.state["of a search"], torch.arange(3.0))

    @pytest.mark.parametrize("sync", ["round", "step"])
    def test_it_resumes_to_the_same_numbers(self, sync: str, tmp_path: Path) -> None:
        of = stepwise(f"dml(order='alternating', sync='{sync}')", clients=4, students=(0, 1, 2), teachers=(1, 2, 3))
        whole = rounds_of(of)
        for stop in (0, 1, 4, 6):
            assert rounds_of(of, store=tmp_path / str(stop), stop=stop) == whole

    def test_a_repeated_exchange_gives_the_identical_reply(self) -> None:
        of = small.small(self.SPEC, clients=3, rounds=4)
        assert same_outcome(federate(of, twice=True), federate(of))


class TestStep:
    """The original's exchange at every batch: a round is a step on a batch that all share."""

    def test_it_needs_rounds_of_one_step(self) -> None:
        method = DML(sync="step")
        method.check(stepwise("dml"), labelled=False)
        for train, found in ((TRAINING, r"steps = 0 \(and epochs = 1\)"), (Training(steps=5), "steps = 5")):
            with pytest.raises(UserError, match=rf"\[train\] has {found}; use steps = 1"):
                method.check(small.small("dml", train=train), labelled=False)
        DML(sync="round").check(small.small("dml"), labelled=False)

    @pytest.mark.parametrize("order", ["simultaneous", "alternating"])
    def test_the_batch_is_the_same_for_all_and_another_for_another_seed(self, order: Any) -> None:
        method = DML(order=order, sync="step")
        nodes = [*(node(client, training=ONE_STEP) for client in range(3)), replace(server(), training=ONE_STEP)]
        for number in range(1, 9):
            drawn = [method.common_batch(each, number).tolist() for each in nodes]
            assert drawn == [drawn[0]] * 4
            assert len(drawn[0]) == 4
        drawn = [
            [method.common_batch(replace(nodes[0], seed=seed), n).tolist() for n in range(1, 9)] for seed in (0, 1)
        ]
        assert drawn[0] != drawn[1]

    @pytest.mark.parametrize(("order", "rounds"), [("simultaneous", 1), ("alternating", 3)])
    def test_batches_run_through_reshuffled_passes_and_last_a_cycle(self, order: Any, rounds: int) -> None:
        method, client = DML(order=order, sync="step"), node(training=ONE_STEP)
        drawn = [method.common_batch(client, number) for number in range(1, 7 * rounds + 1)]
        cycles = [drawn[first : first + rounds] for first in range(0, len(drawn), rounds)]
        assert all(torch.equal(batch, cycle[0]) for cycle in cycles for batch in cycle)
        # Two passes over 14 samples are seven batches of 4, the fourth of which spans both.
        run = torch.cat([cycle[0] for cycle in cycles])
        first, second = run[:14], run[14:]
        assert sorted(first.tolist()) == sorted(second.tolist()) == list(range(14))
        assert not torch.equal(first, second)

    @BOTH
    @pytest.mark.parametrize("models", [MODEL, MIXED], ids=["alike", "mixed"])
    @pytest.mark.parametrize("clients", [2, 3])
    @pytest.mark.parametrize("reduce", ["mean", "sum"])
    def test_it_is_a_plain_loop_over_models(self, transfer: str, models: str, clients: int, reduce: str) -> None:
        of = stepwise(
            f"dml(sync='step', reduce='{reduce}', wire='float32')", models=models, clients=clients, transfer=transfer
        )
        outcome = federate(of)
        expected = cohort(of, [seen[0] for seen in outcome.weights], reduce, in_turn=False)
        for client in range(clients):
            assert distance(outcome.final(client), expected[client]) <= 1e-5
            assert distance(outcome.final(client), outcome.weights[client][0]) > 0.01

    @BOTH
    @pytest.mark.parametrize(("models", "clients"), [(MODEL, 2), (MIXED, 2), (MIXED, 3)])
    def test_in_turn_it_is_the_algorithm_of_the_paper(self, transfer: str, models: str, clients: int) -> None:
        of = stepwise(
            "dml(order='alternating', sync='step', wire='float32')",
            models=models, clients=clients, transfer=transfer, rounds=5 * clients,
        )  # fmt: skip
        outcome = federate(of)
        expected = cohort(of, [seen[0] for seen in outcome.weights], "mean", in_turn=True)
        at_once = cohort(of, [seen[0] for seen in outcome.weights], "mean", in_turn=False)
        for client in range(clients):
            assert distance(outcome.final(client), expected[client]) <= 1e-5
            assert distance(outcome.final(client), at_once[client]) > 1e-4

    def test_only_predictions_on_the_batch_travel(self) -> None:
        outcome = federate(stepwise("dml(sync='step')", clients=3, rounds=4))
        for bags in (*outcome.reports[:-1], *outcome.knowledge[1:]):
            assert sorted(bags) == [0, 1, 2]
            for bag in bags.values():
                assert bag["logits"].shape == (ONE_STEP.batch_size, CLASSES)
                assert bag.nbytes == Knowledge(logits=torch.zeros(4, CLASSES, dtype=torch.float16)).nbytes
        assert not outcome.reports[-1]

    def test_in_turn_everybody_speaks_on_a_new_batch_and_only_the_learner_on_an_old_one(self) -> None:
        outcome = federate(stepwise("dml(order='alternating', sync='step')", clients=3, rounds=7))
        everybody = [0, 1, 2]
        assert [sorted(said) for said in outcome.reports] == [everybody, [1], [2], everybody, [1], [2], everybody, []]
        assert [sorted(sent) for sent in outcome.knowledge[1:]] == [[1], [2], [0], [1], [2], [0], [1]]

    @BOTH
    def test_where_the_batch_is_the_whole_transfer_set_it_is_the_exchange_of_a_round(self, transfer: str) -> None:
        train = Training(lr=0.1, batch_size=14, steps=1)
        step, whole = (
            federate(stepwise(f"dml(sync='{sync}', wire='float32')", train=train, transfer=transfer))
            for sync in ("step", "round")
        )
        for client in range(2):
            assert distance(step.final(client), whole.final(client)) <= 1e-6

    @pytest.mark.parametrize("order", ["simultaneous", "alternating"])
    def test_a_teacher_that_never_learns_is_asked_once_and_teaches_on_every_batch(self, order: str) -> None:
        of = stepwise(
            f"dml(order='{order}', sync='step', wire='float32')", clients=3, students=(0, 1), teachers=(0, 1, 2)
        )
        numbers = rounds_of(of)
        frozen = Knowledge(everywhere=torch.zeros(14, CLASSES))
        assert numbers[0, 2, "", "bytes_up"] == frozen.nbytes
        begun = [seen[0] for seen in federate(replace(of, rounds=0, students=(), teachers=())).weights]
        expected = cohort(of, begun, "mean", in_turn=order == "alternating")
        for client in (0, 1):
            reached = network(MODEL, expected[client])
            judged = small.load(of, client).evaluate(reached, None).metrics
            assert numbers[7, client, "test", "loss"] == pytest.approx(judged["test", "loss"], rel=1e-5)

    @pytest.mark.parametrize("order", ["simultaneous", "alternating"])
    def test_a_repeated_exchange_gives_the_identical_reply(self, order: str) -> None:
        of = stepwise(f"dml(order='{order}', sync='step')", clients=3)
        assert same_outcome(federate(of, twice=True), federate(of))

    def test_the_transfer_set_is_whole_again_afterwards(self) -> None:
        method = DML(sync="step")
        nodes = [node(client, training=ONE_STEP) for client in range(2)]
        for each in nodes:
            each.round = 0
        sent = start(method, nodes, replace(server(clients=2), training=ONE_STEP))
        nodes[0].round = 1
        method.learn(nodes[0], sent[0])
        assert len(nodes[0].public) == len(nodes[0].transfer_logits()) == 14
        assert nodes[0].steps == 1


class TestPrivate:
    """Without a transfer set models travel, and each student asks them about its own batch."""

    @staticmethod
    def load(of: Federation, client: int) -> Holdings:
        held = small.load(of, client)
        judged = {split: data for split, data in held.evaluation.items() if split != "transfer"}
        return Holdings(held.shape, held.classes, held.data, held.val, None, judged)

    @pytest.mark.parametrize("order", ["simultaneous", "alternating"])
    def test_an_exchange_at_every_step_is_one_a_round_of_one_step(self, order: str) -> None:
        of = [
            stepwise(f"dml(order='{order}', sync='{sync}')", models=MIXED, clients=3, transfer="private")
            for sync in ("step", "round")
        ]
        step, whole = (federate(each, self.load) for each in of)
        assert same_outcome(step, whole)
        assert distance(step.final(0), step.weights[0][0]) > 1e-3
        assert {name.split("/")[0] for bag in step.knowledge[1].values() for name in bag} == {"teacher"}

    def test_the_waiting_say_nothing_again(self) -> None:
        outcome = federate(small.small("dml(order='alternating')", clients=3, transfer="private", rounds=4), self.load)
        assert [sorted(said) for said in outcome.reports] == [[0, 1, 2], [1], [2], [0], []]
        for number in range(2, 5):
            teacher = (number - 1) % 3
            sent = outcome.knowledge[number][number % 3]
            name = "teacher/{}/weight/head.weight"
            assert torch.equal(sent[name.format(teacher)], outcome.weights[teacher][number - 1]["head.weight"])


def cohort(of: Federation, begun: Sequence[small.Weights], reduce: str, *, in_turn: bool) -> list[small.Weights]:
    """Zhang et al.'s algorithm, written out: models in one loop, their losses from probabilities, steps by hand.

    `in_turn` updates the models one after the other on each batch, with predictions made anew after each update; in
    the order of a federation's turns, which begin with the learner at place 1.
    """
    transfer = small.samples(14, "transfer")
    models = [network(spec, state) for spec, state in zip(of.client_models, begun, strict=True)]
    learners, batches = of.learners, DML(order="alternating" if in_turn else "simultaneous", sync="step")
    for number in range(1, of.rounds + 1):
        at = Node(SERVER, of.clients, of.seed, of.train, CLASSES, transfer=transfer, students=of.students)
        x = transfer.x[index := batches.common_batch(at, number)]
        learning = [learners[number % len(learners)]] if in_turn else learners
        predicted = [model(x).softmax(1).detach() for model in models]
        for client in learning:
            data = small.load(of, client).data
            assert data is not None
            assert data.y is not None
            own = own_batch(of, client, len(data), number)
            labelled, labels = models[client](data.x[own]), data.y[own]
            if of.transfer == LABELLED:
                assert transfer.y is not None
                labelled, labels = torch.cat([labelled, models[client](x)]), torch.cat([labels, transfer.y[index]])
            mimicry = torch.stack(
                [divergence(predicted[peer], models[client](x).softmax(1)) for peer in of.tutors if peer != client]
            )
            supervised = -labelled.softmax(1)[torch.arange(len(labels)), labels].log().mean()
            loss = supervised + (mimicry.sum() if reduce == "sum" else mimicry.mean())
            parameters = list(models[client].parameters())
            with torch.no_grad():
                for parameter, gradient in zip(parameters, torch.autograd.grad(loss, parameters), strict=True):
                    parameter.sub_(of.train.lr * gradient)
    return [weights(model) for model in models]


def own_batch(of: Federation, client: int, n: int, number: int) -> Tensor:
    """The private samples of a client's step: consecutive slices of reshuffled passes over its own data."""
    passes = range(number * of.train.batch_size // n + 1)
    order = [torch.randperm(n, generator=stream(of.seed, "batches/private", client, part)) for part in passes]
    return torch.cat(order)[(number - 1) * of.train.batch_size : number * of.train.batch_size]


def rounds_of(of: Federation, *, store: Path | None = None, stop: int | None = None) -> Numbers:
    """Everything that a federation tells, but for times; with `stop`, it is left after that round and taken up."""
    numbers: Numbers = {}
    grid = InlineGrid(client_app(small.load), of.clients)

    def note(number: int, rows: list[Row]) -> None:
        numbers.update({(number, *row[:3]): row[3] for row in rows if not row[2].endswith("seconds")})
        if number == stop and rest is None:
            raise InterruptedError

    rest: Rounds | None = None
    nodes = list(grid.get_node_ids())
    try:
        Rounds(of, small.load, store).start(grid, nodes, note)
    except InterruptedError:
        assert stop is not None
        rest = Rounds(of, small.load, store)
        assert rest.resume(stop)
        rest.start(grid, nodes, note)
    return numbers


def test_what_travels_survives_the_wire() -> None:
    outcome = federate(stepwise("dml(sync='step')", clients=2, rounds=1))
    for bag in (*outcome.reports[0].values(), *outcome.knowledge[1].values()):
        assert small.same_knowledge(travelled(bag), bag)
